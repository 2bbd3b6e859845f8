"""How the package is written: short modules and functions, one idea a line."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median
from typing import NamedTuple

import poison2poison

PACKAGE = Path(poison2poison.__file__).parent
WORST = 10  # named in a message


class Function(NamedTuple):
    name: str
    lines: int
    body: int


class Module(NamedTuple):
    name: str
    lines: int
    functions: list[Function]
    expressions: int
    statements: int

    @property
    def density(self) -> float:
        return self.expressions / max(1, self.statements)


def measured(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    nodes = [*ast.walk(ast.parse(text))]
    name = str(path.relative_to(PACKAGE))
    functions = []
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno
            body = node.end_lineno - node.body[0].lineno + 1
            functions.append(Function(f"{name}:{node.name}", node.end_lineno - node.lineno + 1, body))
    expressions = sum(isinstance(node, ast.expr) for node in nodes)  # Load and Store are no expressions
    statements = sum(isinstance(node, ast.stmt) for node in nodes)
    return Module(name, text.count("\n"), functions, expressions, statements)


MODULES = [measured(path) for path in sorted(PACKAGE.rglob("*.py"))]
FUNCTIONS = [function for module in MODULES for function in module.functions]


def test_no_module_is_over_400_lines() -> None:
    longest = sorted(MODULES, key=lambda module: -module.lines)
    assert longest[0].lines <= 400, {module.name: module.lines for module in longest[:WORST]}


def test_no_function_is_over_60_lines_and_half_of_them_are_under_12() -> None:
    longest = sorted(FUNCTIONS, key=lambda function: -function.lines)
    assert longest[0].lines <= 60, {function.name: function.lines for function in longest[:WORST]}
    assert median(function.body for function in FUNCTIONS) < 12


def test_a_statement_has_six_expressions_at_most_on_average() -> None:
    expressions = sum(module.expressions for module in MODULES)
    statements = sum(module.statements for module in MODULES)
    densest = sorted(MODULES, key=lambda module: -module.density)
    mean = expressions / statements
    assert mean <= 6.0, (round(mean, 2), {module.name: round(module.density, 2) for module in densest[:WORST]})
