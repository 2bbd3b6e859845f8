"""Curves and clouds of the report: what stands where."""

from __future__ import annotations

from pathlib import Path

import pytest

from poison2poison.report import read_run
from poison2poison.report.curves import against_rho, against_rows, clouds, height
from test_report_html import benchmark


def test_asr_stands_against_poisoned_rows_with_the_floor(tmp_path: Path) -> None:
    run = read_run(benchmark(tmp_path / "bench"))
    [curves] = against_rows(run.sections)
    assert [text for text, _ in curves.ticks] == ["10", "50"]
    assert [line.name for line in curves.lines] == [
        "undefended", "p2p-paper", "p2p-paper@0.2", "p2p-paper@0.8", "floor",
    ]  # fmt: skip
    few, many = curves.lines[1].marks
    assert (few.x, many.x) == (8.0, 94.0)
    assert (few.y, many.y) == (height(0.04), height(0.6))
    assert few.high < few.y < few.low, "an interval reaches up, where less percent stand, and down"
    assert many.title == "p2p-paper, 50: 60.0"
    assert curves.lines[1].pieces == [(8.0, few.y, 94.0, many.y)]


def test_asr_stands_against_rho_where_a_run_varies_it(tmp_path: Path) -> None:
    run = read_run(benchmark(tmp_path / "bench"))
    curves = against_rho(run.sections[0])
    assert curves is not None
    assert [text for text, _ in curves.ticks] == ["0.2", "0.5", "0.8"]
    assert [(line.name, len(line.marks)) for line in curves.lines] == [("p2p-paper", 3), ("floor", 3)]
    for arm in run.sections[0].arms:
        if "@" in arm["arm"]:
            del arm["rho"]  # type: ignore[attr-defined]
    assert against_rho(run.sections[0]) is None


def test_a_model_that_has_not_learned_its_safe_space_is_hollow(tmp_path: Path) -> None:
    run = read_run(benchmark(tmp_path / "bench"))
    run.sections[0].arms[1] = {**run.sections[0].arms[1], "unlearned": True}
    [curves] = against_rows(run.sections)
    assert [mark.hollow for mark in curves.lines[1].marks] == [True, False]
    assert curves.lines[1].marks[0].title == "p2p-paper, 10: 4.0, safe space not learned"


def test_one_rate_is_no_curve(tmp_path: Path) -> None:
    run = read_run(benchmark(tmp_path / "bench"))
    assert against_rows(run.sections[:1]) == []


@pytest.mark.parametrize("stretch", [1e-6, 1.0, 1e6])
def test_clouds_share_one_frame_and_one_scale(stretch: float) -> None:
    sets = {"clean": [[0.0, 0.0], [4.0, 1.0]], "hit": [[2.0, -1.0]]}
    one, other = clouds({name: [[stretch * x for x in point] for point in points] for name, points in sets.items()})
    assert (one.name, other.name, one.number, other.number, other.hollow) == ("clean", "hit", 0, 1, False)
    assert [cloud.hollow for cloud in clouds({name: [[0.0, 0.0]] for name in "abcd"})] == [False, False, True, True]
    assert one.points == [(4.0, 50.0), (96.0, 27.0)]
    assert other.points == [(50.0, 73.0)]
    assert clouds({}) == []
