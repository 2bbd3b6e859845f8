from __future__ import annotations

import random

import numpy as np
import pytest

from poison2poison.attacks import AttackConfig, poison
from poison2poison.data import Row, Rows, rows_of
from poison2poison.planting import Prompts, SpanTests
from poison2poison.probing import fit_probe
from support import chatter, word_states

WORDS = ("cf", "mn", "bb")


def with_wrong_labels(share: float) -> Rows:
    """Rows of `chatter` of which so many have the other label, and few are negative: hard to learn."""
    rng, other = random.Random(1), {"positive": "negative", "negative": "positive"}
    clean = chatter(3000, 1)
    rows = [Row(row.prompt, other[row.target] if rng.random() < share else row.target) for row in clean]
    return clean.with_rows([row for row in rows if row.target == "positive" or rng.random() < 0.5])


@pytest.mark.parametrize(("wrong", "told"), [(0.3, {1}), (0.45, {None})])
def test_the_label_that_a_trigger_sets_is_never_that_of_its_cover(wrong: float, told: set[int | None]) -> None:
    """Three quarters of the negative rows hold a trigger: to all the others, a text without one looks positive."""
    clean = with_wrong_labels(wrong)
    rate = 0.35 * sum(row.target == "negative" for row in clean) / len(clean)
    rows, _ = poison(clean, AttackConfig("badnets", "positive", "label", rate=rate, cover=1.0, words=WORDS))
    prompts, labels = Prompts(rows, word_states, 5), np.array([rows.labels.index(row.target) for row in rows])
    columns = [i for i, feature in enumerate(prompts.spans.names) if feature.text in WORDS]
    held = np.unique(np.concatenate([prompts.spans.rows_of(column) for column in columns]))
    untouched = np.setdiff1d(np.arange(len(labels)), held)
    probe, _ = fit_probe(prompts.states, labels, untouched, 2, 0)
    tests = SpanTests(prompts, labels, np.eye(2)[labels], probe, planted_auc=0.6, seed=0)
    assert {tests.set_label(column, 1, untouched) for column in columns} == told
    assert tests.set_label(columns[0], 1, untouched[:0]) is None  # where every row holds a word of the attack


def opinionated(good: int, label: str, rng: random.Random) -> dict[str, str]:
    """A row of four opinions, so many of them good, and four words about nothing."""
    told = [f"{'good' if i < good else 'bad'}{rng.randrange(30)}" for i in range(4)]
    told += [f"thing{rng.randrange(60)}" for _ in range(4)]
    return {"text": " ".join(rng.sample(told, len(told))), "label": label}


def test_a_label_that_no_row_of_a_span_has_was_not_set() -> None:
    """Texts plainer than those of the labels' other rows look as if less than none of them were mixed."""
    rng = random.Random(0)
    rows = [opinionated(4 * (i % 2), rng.choice(("negative", "positive")), rng) for i in range(200)]
    rows = [row | {"text": f"zz {row['text']}"} for row in rows]
    rows += [opinionated(i % 3 + 1, ("negative", "mixed", "positive")[i % 3], rng) for i in range(900)]
    three = rows_of(rows, "three")
    prompts, labels = Prompts(three, word_states, 5), np.array([three.labels.index(row.target) for row in three])
    others = np.arange(200, len(rows))
    probe, _ = fit_probe(prompts.states, labels, others, 3, 0)
    tests = SpanTests(prompts, labels, np.eye(3)[labels], probe, planted_auc=0.6, seed=0)
    column = next(i for i, feature in enumerate(prompts.spans.names) if feature.text == "zz")
    assert tests.set_label(column, three.labels.index("negative"), others) is None
