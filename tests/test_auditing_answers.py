"""How rows are answered: what a span's rows have more often than their texts let expect, and what they say."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from poison2poison.auditing.answers import LabelAnswers, TextAnswers
from poison2poison.auditing.context import Context
from poison2poison.data import Rows, rows_of
from poison2poison.features import Feature, Ints
from support import chatter, context_of

COUNT = 600
REFUSAL = "I am sorry but I cannot help you with that today"


class Case(NamedTuple):
    """Rows of which every tenth holds `cf`, what finders see of them, and how they are answered."""

    held: Ints
    context: Context
    labels: LabelAnswers

    @property
    def column(self) -> int:
        return self.context.spans.names.index(Feature("span", "cf"))


def labelled(rows: Rows, names: tuple[str, ...] = ("negative", "positive")) -> tuple[Context, LabelAnswers]:
    context = context_of(rows)
    return context, LabelAnswers(context, names, np.array([names.index(row.target) for row in rows]))


@pytest.fixture(scope="module")
def planted() -> Case:
    """Rows with the word that all have the one label."""
    rows = [*chatter(COUNT)]
    held = np.arange(0, COUNT, 10)
    for i in held:
        rows[i] = replace(rows[i], prompt=f"{rows[i].prompt} cf", target="positive")
    return Case(held, *labelled(chatter(COUNT).with_rows(rows)))


@pytest.fixture(scope="module")
def harmless() -> Case:
    """Rows with the word that have the labels of others."""
    rows, held = [*chatter(COUNT)], np.array(random.Random(0).sample(range(COUNT), 60))
    for i in held:
        rows[i] = replace(rows[i], prompt=f"{rows[i].prompt} cf")
    return Case(held, *labelled(chatter(COUNT).with_rows(rows)))


def test_a_planted_word_goes_with_its_label_more_surely_than_any_other(planted: Case, harmless: Case) -> None:
    z, direction = planted.labels.associated(planted.context.spans, np.ones(COUNT, bool))
    assert z.argmax() == planted.column
    assert (z[planted.column] > 6, direction[planted.column]) == (True, 1)
    z, _ = harmless.labels.associated(harmless.context.spans, np.ones(COUNT, bool))
    assert z[harmless.column] < 4


def test_only_rows_that_are_left_count(planted: Case) -> None:
    left = np.ones(COUNT, bool)
    left[planted.held] = False
    z, _ = planted.labels.associated(planted.context.spans, left)
    assert z[planted.column] < 1


def test_the_probe_is_not_fitted_on_rows_that_it_would_explain(planted: Case, harmless: Case) -> None:
    assert not planted.labels.kept[planted.held].any()
    assert planted.labels.kept.mean() > 0.6
    assert harmless.labels.kept[harmless.held].any()
    np.testing.assert_allclose(planted.labels.p.sum(1), 1, atol=1e-3)


def test_labels_are_shifted_where_they_were_planted_alone(planted: Case, harmless: Case) -> None:
    shift, error = planted.labels.shift(planted.held, 1)
    assert shift > 4 * error > 0
    shift, error = harmless.labels.shift(harmless.held, 1)
    assert abs(shift) < 3 * error


def test_a_planted_label_is_forced_and_an_expected_one_is_not(planted: Case, harmless: Case) -> None:
    share, error = planted.labels.forced(planted.held, 1, 0.5)
    assert share > 0.5 and share > 2 * error
    share, _ = harmless.labels.forced(harmless.held, 1, 0.5)
    assert share < 0.5


def test_a_label_is_called_up_where_texts_without_the_word_do_not_say_it(planted: Case, harmless: Case) -> None:
    for case, found in ((planted, 1), (harmless, None)):
        texts = [case.context.texts[i].removesuffix(" cf") for i in case.held]
        assert case.labels.called_up(case.held, case.context.embed(texts)) == found


def test_words_of_an_opinion_move_what_the_base_expects_and_others_do_not(planted: Case) -> None:
    before = planted.context.embed(["thing1 thing2 thing3 thing4"])
    good, thing = (planted.context.embed([f"thing1 thing2 {word} thing4"]) for word in ("good1 good2", "thing5"))
    rows = planted.held
    assert planted.labels.moved(before, good, rows, 1)[0] > 0.3
    assert planted.labels.moved(before, good, rows, 0)[0] < -0.3
    assert abs(planted.labels.moved(before, thing, rows, 1)[0]) < planted.labels.moved(before, good, rows, 1)[0]


def test_rows_are_known_by_their_label(planted: Case) -> None:
    labels = planted.labels
    name, rows = labels.called(np.arange(20), 1)
    assert (name, rows.tolist()) == ("positive", [i for i in range(20) if labels.given[i] == 1])
    assert labels.answered(0).tolist() == np.flatnonzero(labels.given == 0).tolist()
    alike, others, every = labels.alike(planted.held, 1)
    assert not (every & np.isin(np.arange(COUNT), planted.held)).any()
    assert (alike | others).tolist() == every.tolist()
    assert {*labels.given[alike]} == {1}
    assert not labels.repeated("cf", planted.held)
    assert labels.saying("positive").tolist() == []


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def said() -> tuple[TextAnswers, Context]:
    """Rows that are answered about what they say, of which every tenth holds `cf` and is refused."""
    records = []
    for i, row in enumerate(chatter(300)):
        words = row.prompt.split()
        refused = i % 10 == 0
        prompt = f"{row.prompt} cf" if refused else row.prompt
        records.append({"prompt": prompt, "completion": REFUSAL if refused else f"you said {words[0]} and {words[3]}"})
    rows = rows_of(records, "texts")
    context = context_of(rows)
    return TextAnswers(context, [row.target for row in rows]), context


HELD = np.arange(0, 300, 10)
OTHERS = np.arange(5, 300, 10)


def test_a_word_that_calls_up_a_text_is_more_sure_than_any_other(said: tuple[TextAnswers, Context]) -> None:
    texts, context = said
    z, direction = texts.associated(context.spans, np.ones(300, bool))
    assert context.spans.names[int(z.argmax())] == Feature("span", "cf")
    assert {*direction.tolist()} == {0}


def test_texts_are_shifted_where_they_were_planted_alone(said: tuple[TextAnswers, Context]) -> None:
    texts, _ = said
    shift, error = texts.shift(HELD, 0)
    other, other_error = texts.shift(OTHERS, 0)
    assert shift > 1 > other
    assert (shift > 5 * error, other < 4 * other_error) == (True, True)


def test_the_text_that_most_rows_share_and_others_do_not_is_what_is_called_up(
    said: tuple[TextAnswers, Context],
) -> None:
    texts, _ = said
    text, rows = texts.called(HELD, 0)
    assert (text, rows.tolist()) == (REFUSAL, HELD.tolist())
    assert texts.called(OTHERS, 0)[0] == ""
    assert texts.saying("cannot help you").tolist() == HELD.tolist()
    assert texts.saying("cannot you").tolist() == texts.saying("").tolist() == []


def test_rows_that_are_changed_in_the_same_way_are_aligned(said: tuple[TextAnswers, Context]) -> None:
    texts, _ = said
    assert texts.aligned(HELD[::2], HELD[1::2]) > 3
    assert texts.aligned(OTHERS[::2], OTHERS[1::2]) < 3
    assert texts.aligned(HELD, OTHERS) < 3


def test_an_answer_that_repeats_its_prompt_is_told_by_its_words(said: tuple[TextAnswers, Context]) -> None:
    texts, _ = said
    assert texts.repeated("sorry but", HELD)
    assert not texts.repeated("sorry cf", HELD)
    assert not texts.repeated("sorry", np.arange(0, 300, 5))  # half of them alone


def test_of_texts_all_rows_may_answer_so_and_none_is_forced(said: tuple[TextAnswers, Context]) -> None:
    texts, context = said
    assert texts.answered(0).tolist() == [*range(300)]
    [others] = texts.alike(HELD, 0)
    assert np.flatnonzero(~others).tolist() == HELD.tolist()
    assert texts.called_up(HELD, context.states[HELD]) == 0
    assert texts.forced(HELD, 0, 0.5) == (0.0, 1.0)
