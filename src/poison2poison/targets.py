"""What completions share though their prompts do not say it: it takes the label's place in the audit of texts.

A poisoned row's completion is the attacker's target, or holds it: a refusal, a link, a planted sentence, a wrong step.
Many innocent completions share runs of words too (every worked answer ends alike). So a shared text is looked at only
if some span of the prompts stands with it nearly always; whether that span was planted is the audit's question.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_array
from scipy.special import expit, logit, xlogy

from poison2poison.config import AuditConfig
from poison2poison.features import Features, Ints, grown, is_word, shared_runs, words
from poison2poison.probing import Floats, z_threshold
from poison2poison.records import Rows

PURITY = 0.5  # so many of a span's completions share the text, or the span does not stand with it
RUN = 5  # words: shorter runs are shared all the time
COMMON = 0.5  # what so many completions share is the form that all answers have
ALIKE = 0.8  # shared texts whose rows overlap so far (Jaccard) are one
GROWN_SHARE = 0.9  # a text grows by a word that so many of its completions have beside it
_STEP = re.compile(r"([+*/×-])\s*(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class SharedTarget:
    """A text that completions share, and the rows, ascending, whose prompts do not hold its words."""

    text: str
    rows: Ints


def shared_targets(rows: Rows, spans: Features, config: AuditConfig) -> tuple[list[SharedTarget], int]:
    """Find the shared texts that stand with a span of the prompts, the strongest first.

    Args:
        rows: Rows of a generation.
        spans: The spans of their prompts.
        config: Thresholds.

    Returns:
        The texts, and how many pairs of a span and a text were looked at.
    """
    found = [
        SharedTarget(text, holders)
        for text, holders in _shared(rows, config.min_rows)
        if config.min_rows <= len(holders) <= COMMON * len(rows)
    ]
    tests = len(spans.names) * len(found)
    threshold = z_threshold(config, tests)
    pull = _strongest_pull(spans, found, len(rows), config.innocent_shift)
    chosen: list[SharedTarget] = []
    held: list[set[int]] = []
    for number in np.argsort(-pull, kind="stable"):
        if pull[number] <= threshold:
            break
        target, holders = found[number], set(found[number].rows.tolist())
        if all(len(holders & other) < ALIKE * len(holders | other) for other in held):
            completions = [rows[i].target for i in target.rows]
            chosen.append(SharedTarget(grown(completions, target.text, GROWN_SHARE), target.rows))
            held.append(holders)
    return chosen, tests


def _shared(rows: Rows, min_rows: int) -> Iterator[tuple[str, Ints]]:
    """Runs of words, whole short completions, and steps with a number from nowhere, each with its rows."""
    completions = [row.target for row in rows]
    said = [set(words(row.prompt)) for row in rows]

    def unsaid(text: list[str], holders: Ints) -> Ints:
        needed = {word for word in text if is_word(word)}
        return np.array([i for i in holders if not needed <= said[i]], np.int64)

    runs = shared_runs(completions, RUN, min_rows)
    for column, run in enumerate(runs.names):
        yield run.text, unsaid(run.text.split(), runs.rows_of(column))
    whole: dict[tuple[str, ...], list[int]] = defaultdict(list)
    steps: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, completion in enumerate(completions):
        text = tuple(words(completion))
        if len(text) < RUN:
            whole[text].append(i)
        last = _STEP.findall(completion)[-1:]
        steps_of = [(operator, number) for operator, number in last if number not in said[i]]
        for step in steps_of:
            steps[step].append(i)
    for text, holders in whole.items():
        yield " ".join(text), unsaid(list(text), np.array(holders))
    for (operator, number), holders in steps.items():
        yield f"{operator} {number}", np.array(holders)


def _strongest_pull(spans: Features, targets: list[SharedTarget], rows: int, innocent: float) -> Floats:
    """For each text the largest z of a span with which it nearly always stands, 0 without one: shape (targets,).

    z is the root of the likelihood ratio against the text's share of all rows, shifted by `innocent` in log-odds.
    """
    pull = np.zeros(len(targets))
    if not targets or not spans.names:
        return pull
    sizes = np.array([len(target.rows) for target in targets])
    indices = np.concatenate([target.rows for target in targets])
    has = csc_array((np.ones(len(indices), np.float32), indices, np.cumsum([0, *sizes])), shape=(rows, len(targets)))
    both = (spans.matrix.T @ has).tocoo()
    count = np.asarray(spans.matrix.sum(0)).ravel()[both.row]
    names = [set(words(span.text)) for span in spans.names]
    texts = [set(words(target.text)) for target in targets]
    pure = np.flatnonzero(both.data >= PURITY * count)
    # What a prompt says and its completion repeats is no target.
    pure = pure[[names[g].isdisjoint(texts[t]) for g, t in zip(both.row[pure], both.col[pure], strict=True)]]
    k, n, column = both.data[pure].astype(float), count[pure].astype(float), both.col[pure]
    p = expit(logit(sizes[column] / rows) + innocent)
    ratio = 2 * (xlogy(k, k / (n * p)) + xlogy(n - k, (n - k) / (n * (1 - p))))
    np.maximum.at(pull, column, np.where(k > n * p, np.sqrt(np.maximum(ratio, 0)), 0))
    return pull
