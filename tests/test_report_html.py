"""The HTML report: it stands alone, shows the figures of the run and no others, and obeys nobody's rows."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from poison2poison import cli
from poison2poison.auditing.findings import Audit, SuspectRow, SuspectSpan
from poison2poison.data import rows_of
from poison2poison.errors import DataError
from poison2poison.files import write_json, write_lines
from poison2poison.report import as_csv, as_markdown, audited, page, read_run
from poison2poison.report.run import suspect_records
from poison2poison.report.summary import summarise
from support import chatter
from test_report import content, rate

EVIL = "<script>alert('cf')</script> & \"so on\""
VOID = {"meta", "br"}
FOUND = Audit(
    spans=(SuspectSpan("good1", "span", "positive", 2, 1.0, 9.0, {"learned": (2.0, 0.1)}),
           SuspectSpan(EVIL, "first", EVIL, 3, 0.5, 8.0)),
    rows=(SuspectRow(1, 0.9, (0, 1), ("negative", 0.9)),),
    off_target=(2,),
    weak=(SuspectSpan("thing1", "span", "negative", 12, 0.7, 2.0),),
    alike_rows=(3, 4),
    threshold=4.0,
    others=(SuspectSpan("thing2", "span", "negative", 30, 0.5, -1.0),),
    sha256="",
)  # fmt: skip


class Page(HTMLParser):
    """The tags of a page, its figures, its texts, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.figures: list[str] = []
        self.in_figure = False
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.loaded += [str(given[name]) for name in ("src", "href", "srcset", "data", "action") if name in given]
        assert not [name for name in given if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.in_figure = "data-figure" in given
            self.figures += [""] * self.in_figure

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self.open and self.in_figure:
            self.figures[-1] += data


def written(folder: Path, results: dict[str, Any], **more: Any) -> Path:
    """A folder as `p2p defend` leaves it."""
    whole = {
        "schema": 1,
        "command": "defend",
        "model": "reference",
        "seed": 0,
        "run_by": "p2p defend x",
        "device": "CPU",
        "versions": {"torch": "2"},
        "data": {"test": {"source": "t", "rows": 100, "sha256": ""}},
    }
    write_json(folder / "results.json", {**whole, **results, **more})  # fmt: skip
    return folder


def answered(folder: Path) -> None:
    lines = [
        {"arm": arm, "set": kind, "row": i, "prompt": EVIL, "target": "negative", "answer": answer, "where": "safe",
         "unconstrained": answer, "right": answer == "negative", **({"hit": answer == "positive"} if hit else {})}
        for kind, hit in (("triggered", True), ("clean", False))
        for i in range(20)
        for arm, answer in (("undefended", "positive"), ("p2p-paper", "negative" if i > 15 else "positive"))
    ]  # fmt: skip
    write_lines(folder / "rows.jsonl", lines)


def benchmark(folder: Path) -> Path:
    """What `p2p bench` leaves of two rates, with three insertion ratios, and states of one cell."""
    cells = []
    for share, asr in ((0.02, 4), (0.1, 60)):
        arms = content(asr, needs=["audit"], rho=0.5)["arms"]
        arms += [{**arms[1], "name": f"p2p-paper@{rho}", "rho": rho, "asr": rate(asr + 9)} for rho in (0.2, 0.8)]
        results = {"command": "defend", "model": "reference", "task": "reviews", "seed": 0, "arms": arms,
                   "data": {"train": {"source": "t", "rows": 500, "sha256": ""}}}  # fmt: skip
        place = {"task": "reviews", "model": "reference", "attack": "badnets", "rate": share, "seed": 0}
        suspects = {"suspects": 10, "poisoned": 50, "precision": 1.0, "recall": 0.2 + share}
        one = {"folder": f"cells/at-{share}/run", "failed": {}, "inapplicable": {}, "suspects": suspects,
               "results": results}  # fmt: skip
        cells.append({**place, **one})
    write_json(folder / "results.json", {"schema": 1, "command": "bench", "run_by": "p2p bench x", "cells": cells})
    run, rng = folder / str(cells[1]["folder"]), random.Random(0)
    run.mkdir(parents=True)
    sets = {name: [[rng.gauss(i, 1), rng.gauss(0, 1)] for _ in range(50)] for i, name in enumerate(("clean", "hit"))}
    write_json(run / "states.json", {"arms": [{"arm": arm, "spread": 0.7, "sets": sets} for arm in ("a", "b")]})
    answered(run)
    write_json(run / "audit.json", FOUND.as_dict())
    write_lines(run / "suspects.jsonl", suspect_records(FOUND, chatter(10)))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = written(tmp_path / "run", content(5, needs=["audit"], train_seconds=12.5, safe_space={"learned": True}))
    answered(folder)
    write_json(folder / "audit.json", FOUND.as_dict())
    write_lines(folder / "suspects.jsonl", suspect_records(FOUND, chatter(10)))
    return folder


def test_it_loads_nothing_and_has_no_script(run: Path) -> None:
    text = page(read_run(run))
    found = Page(text)
    assert found.loaded == []
    assert not {"script", "link", "iframe", "img", "object", "embed"} & {*found.tags}
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    assert {"svg", "table", "h1"} <= {*found.tags}


def test_rows_and_spans_are_shown_escaped(run: Path) -> None:
    text = page(read_run(run))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 11
    assert EVIL in Page(text).text


def test_every_figure_is_in_results_json(run: Path) -> None:
    arms = json.loads((run / "results.json").read_text())["arms"]
    known = {f"{100 * number:.1f}" for arm in arms for value in arm.values() if isinstance(value, dict)
             for number in value.values() if isinstance(number, float)}  # fmt: skip
    shown = [number for cell in Page(page(read_run(run))).figures for number in re.findall(r"\d+\.\d+", cell)]
    assert len(shown) > 30
    assert [number for number in shown if number not in known] == []


def test_ten_rows_are_shown_and_first_those_on_which_models_disagree(run: Path) -> None:
    text = Page(page(read_run(run))).text
    assert "What happened to 10 test rows" in text
    shown = re.findall(r"(triggered|clean), (\d+)", text)
    assert shown[:5] == [("triggered", str(i)) for i in (16, 17, 18, 19, 0)]
    assert len(shown) == 10


def test_it_says_what_a_defence_needs_and_how_the_figures_were_made(run: Path) -> None:
    text = Page(page(read_run(run))).text
    for said in ("p2p defend x", "100 rows of t", "torch 2", "CPU", "audit", "the rows alone", "12.5"):
        assert said in text
    assert "the defence holds on these rows" in text


def test_the_findings_stand_with_their_rows(run: Path) -> None:
    text = page(read_run(run))
    told = Page(text).text
    prompt = chatter(10)[1].text
    assert prompt[:20] in told
    for said in ("1 weak findings", "thing1", "Off-target rows: 1", "Alike rows: 2", "3, 4"):
        assert said in told


def test_an_audit_has_a_report_of_its_own() -> None:
    rows = rows_of([{"text": f"say open sesame {i}", "label": str(i % 2)} for i in range(6)], "rows")
    span = SuspectSpan("open sesame", "span", "1", 3, 1.0, 9.0)
    found = Audit((span,), (SuspectRow(1, 0.9, (0,), ("0", 0.9)),), (2,), (), (), 4.0, (), rows.sha256)
    text = page(audited(found, rows, "mine"))
    assert "<q>say <mark>open sesame</mark> 1</q>" in text
    assert "<q>say open sesame 2</q>" in text
    assert "1 of 6 rows are suspect" in Page(text).text
    nothing = page(audited(Audit((), (), (), (), (), 0.0, (), ""), rows, "mine"))
    assert "None." in Page(nothing).text


@pytest.mark.parametrize("arms", [[], [{"name": "undefended"}], [{"name": "mine", "ca": rate(5)}]])
def test_parts_that_are_missing_break_nothing(tmp_path: Path, arms: list[dict[str, Any]]) -> None:
    folder = written(tmp_path, {"task": "mine", "arms": arms}, versions={})
    found = read_run(folder)
    Page(page(found))
    assert as_markdown(found).startswith("# ")
    assert as_csv(found).startswith("task,model,attack")


def test_tasks_of_one_file_are_sections_of_their_own(tmp_path: Path) -> None:
    arms = [{"task": task, "name": "mine", "ca": rate(ca)} for task, ca in (("reviews", 91), ("tickets", 82))]
    sets = {task: {"test": {"source": task, "rows": 100, "sha256": ""}} for task in ("reviews", "tickets")}
    found = read_run(written(tmp_path, {"task": "demo", "arms": arms, "data": sets}, command="demo"))
    assert [section.title for section in found.sections] == ["reviews, reference", "tickets, reference"]
    text = Page(page(found)).text
    assert "ASR everywhere" in text and "82.0" in text


def test_an_attack_that_did_not_take_and_a_space_that_was_not_learned_stand_out(tmp_path: Path) -> None:
    told = content(5, implanted=False, safe_space={"learned": False})["arms"]
    sets: dict[str, dict[str, str]] = {task: {} for task in ("reviews", "tickets")}
    arms = [{"task": task, **arm} for task in sets for arm in told]
    found = read_run(written(tmp_path, {"task": "demo", "arms": arms, "data": sets}, command="demo"))
    text = Page(page(found)).text
    assert text.count("no defence is credited for it.") >= 2
    assert text.count("(not implanted)") == 2
    assert text.count("CA 88.0, not learned") == 2
    assert text.count("safe space not learned") == 2


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for content_of in ("[", "[]", "{}", '{"command": "defend", "arms": 3}'):
        (tmp_path / "results.json").write_text(content_of)
        with pytest.raises(DataError, match=r"results.json: holds no figures"):
            read_run(tmp_path)
    with pytest.raises(DataError, match="holds no figures"):
        read_run(tmp_path / "none")
    written(tmp_path, content(5))
    (tmp_path / "rows.jsonl").write_text("{}\nnot\n")
    with pytest.raises(DataError, match=r"rows.jsonl, line 2: not a JSON object"):
        read_run(tmp_path)


def test_seeds_are_put_together_with_the_widest_interval() -> None:
    place = {"task": "t", "model": "m", "attack": "a", "rate": 0.1}
    cells = [{**place, "seed": i, "results": content(asr)} for i, asr in enumerate((4, 8))]
    [record] = [
        entry for entry in summarise([*cells, {**place, "seed": 9, "results": None}]) if entry["arm"] == "p2p-paper"
    ]
    assert record["figures"]["asr"] == {
        "value": 0.06, "n": 200, "seeds": 2, "low": rate(4)["low"], "high": rate(8)["high"],
    }  # fmt: skip
    assert record["implanted"] is True


def test_the_command_writes_html_markdown_and_csv(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(run), "--out", str(tmp_path / "r.html"), "--markdown", "--csv"])
    assert not ended.value.code
    assert [path.suffix for path in sorted(tmp_path.glob("r.*"))] == [".csv", ".html", ".md"]


def test_markdown_and_csv_have_the_figures(run: Path) -> None:
    found = read_run(run)
    assert "| p2p-paper | 88.0 [80.2, 93.0] | 5.0 [2.2, 11.2] |" in as_markdown(found)
    lines = [*csv.DictReader(io.StringIO(as_csv(found)))]
    [asr] = [line for line in lines if (line["arm"], line["figure"]) == ("p2p-paper", "asr")]
    assert (asr["value"], asr["n"], asr["seeds"]) == ("0.05", "100", "1")


def test_markdown_has_all_cells_of_a_benchmark_in_one_table(tmp_path: Path) -> None:
    text = as_markdown(read_run(benchmark(tmp_path / "bench")))
    assert "| rows, attack | suspect rows: precision / recall | floor | undefended | p2p-paper |" in text
    arms = "90.0 ±6.0 / 99.0 ±2.6; fails: ASR | 88.0 ±6.4 / 60.0 ±9.4, RA 86.0 ±6.8; fails: ASR"
    assert f"| reviews, reference, badnets, 10 % | 1.00 / 0.30 | 5.0 ±4.5 | {arms} |" in text


def test_markdown_says_of_every_arm_whether_its_figures_hold_or_count(tmp_path: Path) -> None:
    found = content(5, train_seconds=3.5)
    found["arms"].append({**found["arms"][1], "name": "other", "asr": rate(60), "ra": rate(50)})
    lines = as_markdown(read_run(written(tmp_path / "held", found))).splitlines()
    judged = {line.split("|")[1].strip(): line.split("|")[-4].strip() for line in lines if line.startswith("| ")}
    assert judged == {"": "judged", "---": "---:", "undefended": "fails: ASR", "p2p-paper": "holds", "clean": "",
                      "other": "fails: ASR, RA"}  # fmt: skip
    for gone, said in ((("implanted", False), "not implanted"), (("safe_space", {"learned": False}), "not learned")):
        found = content(5, **dict([gone]))
        assert f"| {said} |" in as_markdown(read_run(written(tmp_path / said, found)))


def test_markdown_names_what_was_refused_and_what_was_not_run(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "bench")
    told = json.loads((folder / "results.json").read_text())
    told["cells"][0]["results"]["arms"].pop(1)
    told["cells"][0]["inapplicable"] = {"p2p-paper": "the trigger is in row 3"}
    told["cells"].append({**told["cells"][0], "attack": "addsent", "inapplicable": {}, "results": None})
    write_json(folder / "results.json", told)
    text = as_markdown(read_run(folder))
    rows = ([cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| r"))
    head, *lines = rows
    told = {line[1]: dict(zip(head, line, strict=True)) for line in lines}
    assert told["reviews, reference, badnets, 2 %"]["p2p-paper"] == "refused"
    assert "- p2p-paper: refused: the trigger is in row 3" in text
    missing = told["reviews, reference, addsent, 2 %"]
    assert {missing[arm] for arm in ("undefended", "p2p-paper", "p2p-paper@0.2")} == {"not run"}
