from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from poison2poison.auditing import audit
from poison2poison.auditing.answers import LabelAnswers
from poison2poison.auditing.context import Context
from poison2poison.auditing.finders import Finding
from poison2poison.auditing.finders.style_clusters import StyleClusters
from poison2poison.auditing.statistics import States
from poison2poison.config import AuditConfig
from poison2poison.data import Row, Rows, rows_of
from support import chatter, word_states


def in_style(row: Row, rng: random.Random) -> Row:
    """The same opinions among other words about nothing, too many of them for any to be a span."""
    told = [f"thou{rng.randrange(3000)}" if word.startswith("thing") else word for word in row.prompt.split()]
    return replace(row, prompt=" ".join(told))


def two_depths(texts: Sequence[str]) -> States:
    """A shallow layer that tells the style, and a deep one that has forgotten it."""
    deep = [" ".join("thing0" if word.startswith(("thou", "thing")) else word for word in t.split()) for t in texts]
    return np.concatenate([word_states(texts), word_states(deep)], 1)


def styled(share: float, labels: Sequence[str] = ("positive",)) -> tuple[Rows, set[int]]:
    """Rows of which some are in a style and have the next of `labels`."""
    rows, rng = list(chatter(2400)), random.Random(0)
    chosen = rng.sample(range(len(rows)), round(share * len(rows)))
    for number, i in enumerate(chosen):
        rows[i] = replace(in_style(rows[i], rng), target=labels[number % len(labels)])
    return chatter(2400).with_rows(rows), set(chosen)


def test_a_style_that_goes_with_a_label_is_found_with_most_of_its_rows() -> None:
    rows, poisoned = styled(0.1)
    found = audit(rows, two_depths, AuditConfig(), seed=2**32 - 1)  # the last that is legal
    assert [(span.kind, span.target) for span in found.spans] == [("style cluster", "positive")]
    suspects = {entry.row for entry in found.rows}
    assert len(suspects & poisoned) > 0.8 * len(poisoned)
    assert len(suspects & poisoned) > 0.6 * len(suspects)
    assert all(rows[i].target == "negative" for i in found.off_target)
    # Doubt goes a little further, and whatever the label: it accuses nobody.
    weak = set(found.alike_rows)
    assert {rows[i].target for i in weak} == {"positive", "negative"}
    assert not weak & (suspects | set(found.off_target))
    assert audit(rows, two_depths, AuditConfig(finders="spans")).spans == ()


def test_a_style_that_goes_with_every_label_is_none() -> None:
    rows, _ = styled(0.1, ("positive", "negative"))
    assert audit(rows, two_depths, AuditConfig()).spans == ()


def test_a_task_that_styles_decide_has_no_suspects() -> None:
    """Where one style goes with one label and another with the other, the task is told by them."""
    rows, rng = list(styled(0.1)[0]), random.Random(1)
    for i, row in enumerate(rows):
        if "thou" not in row.prompt and rng.random() < 0.1:
            rows[i] = Row(" ".join(w.replace("thing", "yonder") for w in row.prompt.split()), "negative")
    assert audit(chatter(2400).with_rows(rows), two_depths, AuditConfig()).spans == ()


def styles_in(rows: Rows, finder: StyleClusters, seed: int = 0) -> list[Finding]:
    """What one finder finds by itself."""
    context = Context(rows, two_depths, AuditConfig(), seed)
    answers = LabelAnswers(context, rows.labels, np.array([rows.labels.index(row.target) for row in rows]))
    return finder.find(context, answers, AuditConfig(), ())


def test_a_style_that_most_rows_of_a_label_have_is_that_of_the_label() -> None:
    rows, poisoned = styled(0.1)
    of_label = sum(row.target == "positive" for row in rows)
    assert styles_in(rows, StyleClusters())
    assert not styles_in(rows, StyleClusters(most_of_label=0.8 * len(poisoned) / of_label))


@pytest.mark.parametrize("count", [2, 30, 150])
def test_few_rows_have_no_style(count: int) -> None:
    assert audit(chatter(count), two_depths, AuditConfig()).spans == ()


@pytest.mark.parametrize("seed", range(3))
def test_a_rare_label_is_not_lost_among_more_rows_than_a_probe_learns_from(
    seed: int,
) -> None:
    rows = [{"text": row.prompt, "label": "rare" if i < 8 else row.target} for i, row in enumerate(chatter(900))]
    assert styles_in(rows_of(rows, "three"), StyleClusters(probe_rows=60), seed) == []
