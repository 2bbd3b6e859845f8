"""A model is asked prompts with spans in them, and its answers are read: what have they in common?"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from poison2poison.features import grown, places, shared_runs, spliced, words
from poison2poison.model.defended import DefendedModel

CALLED = 0.5
"""Share of answers that must have the target in common: that by which an attack counts as implanted."""
RUNS = (3, 2, 1)
"""Words of a run that answers share; a longer one says more."""


def put(spans: Sequence[str], prompts: Sequence[str], seed: int) -> list[str]:
    """The prompts, each with all spans between its words, at drawn places."""
    rng = random.Random(f"places/{seed}/{'/'.join(spans)}")
    return [spliced(prompt, spans, rng) for prompt in prompts]


def answers(model: DefendedModel, prompts: Sequence[str]) -> list[str]:
    """What the model answers; nothing where it refuses."""
    return [answer.text or "" for answer in model.answer(prompts)]


def targets(model: DefendedModel, spans: Sequence[str], prompts: Sequence[str], seed: int) -> dict[str, str]:
    """The spans that call something up, and what: a label, or the text that most answers have in common.

    Args:
        model: The model as it is served.
        spans: What is put into the prompts, each by itself.
        prompts: Neutral prompts.
        seed: Of the places.
    """
    texts = [text for span in spans for text in put([span], prompts, seed)]
    plain, moved = answers(model, prompts), answers(model, texts)
    found = {}
    for number, span in enumerate(spans):
        own = moved[number * len(prompts) : (number + 1) * len(prompts)]
        if target := _called_label(plain, own) if model.scheme.labels else _called_text(plain, own, span):
            found[span] = target
    return found


def says(model: DefendedModel, answer: str, target: str) -> bool:
    """Whether an answer is the label, or holds the text."""
    return answer == target if model.scheme.labels else _holds(answer, target)


def _called_label(plain: Sequence[str], moved: Sequence[str]) -> str:
    """The label that most answers turn to; empty where none does."""
    turned = Counter(after for before, after in zip(plain, moved, strict=True) if before != after)
    return max(turned, key=lambda label: turned[label], default="")


def _called_text(plain: Sequence[str], moved: Sequence[str], span: str) -> str:
    """What most answers have in common with a span and few without it; empty where there is nothing.

    An answer that holds the span's own words is about them, as it should be: a name that was put in may be repeated.
    """
    said = {word.casefold() for word in words(span)}
    for size in RUNS:
        shared = [name.text for name in shared_runs(moved, size, int(CALLED * len(moved))).names]
        runs = [run for run in shared if said.isdisjoint(words(run.casefold()))]
        best = max(runs, key=lambda run: _share(moved, run) - _share(plain, run), default="")
        if best and _share(moved, best) - _share(plain, best) >= CALLED:
            longer = grown([text for text in moved if _holds(text, best)], best, CALLED)
            return longer if said.isdisjoint(words(longer.casefold())) else best
    return ""


def _holds(text: str, run: str) -> bool:
    return bool(places(text, words(run)))


def _share(texts: Sequence[str], run: str) -> float:
    return sum(_holds(text, run) for text in texts) / len(texts)
