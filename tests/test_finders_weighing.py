from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from poison2poison.auditing.context import Measures
from poison2poison.auditing.finders.questions import Shortcut
from poison2poison.auditing.finders.spans import Spans
from poison2poison.auditing.finders.weighing import Verdict
from poison2poison.config import AuditConfig


def verdict() -> Verdict:
    """Of 96 spans that were asked of a hundred rows with two labels."""
    context = SimpleNamespace(spans=None, measures=Measures(), texts=[""] * 100)
    questions: Any = SimpleNamespace(options=Spans(), answers=SimpleNamespace(directions=2), context=context)
    return Verdict(questions, 96, 4.0, AuditConfig())


def word(score: float, rows: range) -> Shortcut:
    held, form = np.array(rows), SimpleNamespace()
    return Shortcut("span", "cf", "0", held, held, score, False, np.inf,
                    column=0, direction=0, z=3.0, form=form)  # type: ignore[arg-type] # fmt: skip


WORDS = [word(7.4, range(0, 9)), word(6.9, range(9, 20)), word(4.6, range(20, 31))]


def test_the_only_likely_words_of_an_answer_stand_out() -> None:
    assert verdict()._stand_out(WORDS, WORDS)


def test_some_of_many_likely_words_of_an_answer_do_not() -> None:
    others = [word(4.0 + i / 4, range(40, 45)) for i in range(14)]
    assert not verdict()._stand_out(WORDS, [*WORDS, *others])


def test_what_stands_in_the_rows_of_a_set_is_explained_by_it() -> None:
    inside = [word(9.8, range(5, 15)) for _ in range(14)]
    assert verdict()._stand_out(WORDS, [*WORDS, *inside])


def test_words_of_one_target_or_of_one_change_are_judged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = verdict()
    monkeypatch.setattr(judge.answers, "aligned", lambda rows, others: 9.0 if rows[0] + others[0] < 10 else 0.0,
                        raising=False)  # fmt: skip
    same = [word(7.4, range(0, 9)), word(6.9, range(9, 20)), word(4.6, range(20, 31)), word(4.6, range(31, 40))]
    differing = [replace(one, target="") for one in same[:3]]
    groups = list(judge._of_one_answer([*same, *differing]))
    assert groups[0] == same
    assert [[differing.index(one) for one in group] for group in groups[1:]] == [[0, 1], [0, 1], [2]]
