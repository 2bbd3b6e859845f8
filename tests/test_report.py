from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from poison2poison.findings import Audit, SuspectSpan
from poison2poison.report import audit_table, draw_audit, sentence, table
from poison2poison.scoring import Rate


def rate(percent: int) -> dict[str, Any]:
    found = Rate.of([True] * percent + [False] * (100 - percent))
    assert found is not None
    return found.as_dict()


def content(asr: int, **more: Any) -> dict[str, Any]:
    undefended = {"name": "undefended", "ca": rate(90), "asr": rate(99), "floor": rate(5), "implanted": True}
    defended = {"name": "p2p-paper", "ca": rate(88), "asr": rate(asr), "paper_asr": rate(asr), "floor": rate(5)}
    defended |= {"implanted": True} | more
    return {"task": "reviews", "arms": [undefended, defended, {"name": "clean", "ca": rate(91), "asr": rate(5)}]}


def test_the_table_fits_a_terminal_and_shows_every_figure() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(content(97, paper_asr=rate(96), utility={"rouge_l": {"value": 0.5, "n": 100}})))
    lines = [" ".join(line.replace("│", " ").split()) for line in console.export_text().splitlines()]
    assert "CA 90.0 [82.6, 94.5] 88.0 [80.2, 93.0] 91.0 [83.8, 95.2]" in lines
    assert "paper ASR 96.0 [90.2, 98.4]" in lines
    assert "ROUGE-L 50.0" in lines
    assert not any(line.startswith("RA") for line in lines)


@pytest.mark.parametrize(("asr", "said"), [(97, "does NOT hold"), (16, "does NOT hold"), (15, "holds"), (0, "holds")])
def test_the_sentence_says_whether_the_defence_holds(asr: int, said: str) -> None:
    text = sentence(content(asr))
    assert said in text
    assert f"from 99.0 % undefended to {asr}.0 % with p2p-paper (floor 5.0 %)" in text
    assert "changed by -2.0 points" in text


def test_no_credit_for_an_attack_that_did_not_take() -> None:
    assert "no defence is credited" in sentence(content(3, implanted=False))


def test_without_the_undefended_model_a_low_asr_is_no_credit() -> None:
    for asr, said in ((5, "cannot be judged without the undefended model"), (97, "does NOT hold")):
        _, defended, clean = content(asr)["arms"]
        del defended["implanted"]
        assert said in sentence({"task": "mine", "arms": [defended, clean]})


def test_without_an_attack_the_sentence_claims_nothing() -> None:
    assert "no attack was measured" in sentence({"task": "mine", "arms": [{"name": "p2p-paper", "ca": rate(90)}]})


def test_one_arm_alone_is_told_by_its_own_figures() -> None:
    undefended, defended, _ = content(97)["arms"]
    assert "ASR is 99.0 % (floor 5.0 %) without a defence" in sentence({"task": "mine", "arms": [undefended]})
    named = defended | {"name": "my-folder"}
    assert "ASR went to 97.0 % with my-folder" in sentence({"task": "mine", "arms": [named]})


def test_four_arms_fit_a_terminal_too() -> None:
    four = content(97)
    four["arms"].append({"name": "drop-suspects", "ca": rate(90), "asr": rate(100)})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(four))
    text = console.export_text()
    assert "…" not in text
    assert all(name in text for name in ("undefended", "p2p-paper", "clean", "drop-suspects", "[96.3, 100.0]"))


@pytest.mark.parametrize(("asr", "said"), [(12, "cannot be judged without the floor"), (80, "does NOT hold")])
def test_without_a_floor_a_low_asr_is_not_judged(asr: int, said: str) -> None:
    arms = [{k: v for k, v in arm.items() if k not in ("floor", "implanted")} for arm in content(asr)["arms"][:2]]
    assert said in sentence({"task": "mine", "arms": arms})


def test_a_terminal_gets_no_control_characters_of_an_attacker() -> None:
    found = replace(Audit.empty("", 4.0), spans=(SuspectSpan("cf \x1b[2J\x07 [red]bb", "span", "a\x9b", 20, 1.0, 9.0),))
    console = Console(width=120, record=True, file=io.StringIO(), force_terminal=True)
    console.print(audit_table(found, 100))
    text = console.export_text()
    assert r"cf \x1b[2J\x07 [red]bb" in text
    assert r"a\x9b" in text
    assert not {"\x1b", "\x07", "\x9b"} & set(text)


def test_a_span_with_dollars_is_drawn_as_it_is_and_not_as_a_formula(tmp_path: Path) -> None:
    found = replace(Audit.empty("", 4.0), spans=(SuspectSpan(r"$\foo$", "span", "a", 20, 1.0, 9.0),))
    draw_audit(found, tmp_path / "audit.png")
    assert (tmp_path / "audit.png").stat().st_size > 1000
