"""What completions share though their prompts do not say it: it takes the label's place in the audit of texts.

A poisoned row's completion is the attacker's target, or holds it: a refusal, a link, a planted sentence, a wrong step.
Many innocent completions share runs of words too (every worked answer ends alike). So a shared text is looked at only
if some span of the prompts stands with it nearly always; whether that span was planted is the audit's question.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csc_array
from scipy.special import expit, logit, xlogy

from poison2poison.config import AuditConfig
from poison2poison.data import Rows
from poison2poison.features import Features, Ints, grown, is_word, shared_runs, words
from poison2poison.probing import Floats, z_threshold

PURITY = 0.5  # so many of a span's completions share the text, or the span does not stand with it
RUN = 5  # words: shorter runs are shared all the time
LEAST_SHARED = 10  # rows of a shared text
COMMON = 0.5  # what so many completions share is the form that all answers have
ALIKE = 0.8  # shared texts whose rows overlap so far (Jaccard) are one
GROWN_SHARE = 0.9  # a text grows by a word that so many of its completions have beside it
_STEP = re.compile(r"([+*/×-])\s*(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class SharedTarget:
    """A text that completions share.

    Attributes:
        text: The text.
        rows: The rows, ascending, that have it though their prompts do not say it.
        said: Those whose prompts do.
    """

    text: str
    rows: Ints
    said: Ints


def shared_targets(rows: Rows, spans: Features, config: AuditConfig) -> tuple[list[SharedTarget], int]:
    """Find the shared texts that stand with a span of the prompts, the strongest first.

    Args:
        rows: Rows of a generation.
        spans: The spans of their prompts.
        config: Thresholds.

    Returns:
        The texts, and how many pairs of a span and a text were looked at.
    """
    found = [target for target in _shared(rows) if LEAST_SHARED <= len(target.rows) <= COMMON * len(rows)]
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
            chosen.append(replace(target, text=grown(completions, target.text, GROWN_SHARE)))
            held.append(holders)
    return chosen, tests


def _shared(rows: Rows) -> Iterator[SharedTarget]:
    """Runs of words, whole short completions, and last steps of worked answers, each with its rows."""
    completions = [row.target for row in rows]
    said = [set(words(row.text)) for row in rows]
    held = Counter(word for completion in completions for word in set(words(completion)))
    form = {word for word, count in held.items() if count > COMMON * len(rows) or not is_word(word)}

    def target(text: str, holders: Iterable[int]) -> SharedTarget:
        needed = set(words(text)) - form
        repeats: dict[bool, list[int]] = {True: [], False: []}
        for i in holders:
            repeats[needed <= said[i]].append(int(i))
        return SharedTarget(text, np.array(repeats[False], np.int64), np.array(repeats[True], np.int64))

    runs = shared_runs(completions, RUN, LEAST_SHARED)
    short: dict[str, list[int]] = defaultdict(list)
    steps: dict[str, list[int]] = defaultdict(list)
    for i, completion in enumerate(completions):
        if len(words(completion)) < RUN:
            short[" ".join(words(completion))].append(i)
        for operator, number in _STEP.findall(completion)[-1:]:
            steps[f"{operator} {number}"].append(i)
    yield from (target(run.text, runs.rows_of(column)) for column, run in enumerate(runs.names))
    yield from (target(text, holders) for text, holders in [*short.items(), *steps.items()])


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
