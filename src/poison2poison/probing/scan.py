"""A scan without rows: spans that might be triggers, screened by their shifts; the strongest are asked.

Candidates are what the model itself writes where a user's words would begin (`leaks`), and words of its tokenizer. Each
goes through three sets of neutral prompts, no two of which share one: a few on which all are screened, some on which it
is read what the answers of the strongest have in common, and others on which that is counted.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scipy.stats import binomtest

from poison2poison.config import ProbeConfig
from poison2poison.errors import ConfigError
from poison2poison.evaluation.rates import Rate, implanted
from poison2poison.model.defended import DefendedModel
from poison2poison.probing.asking import answers, put, says, targets
from poison2poison.probing.leaks import leaked, motifs
from poison2poison.probing.neutral import neutral_prompts
from poison2poison.probing.shifts import Shift, Shifts
from poison2poison.probing.subject import Subject

Source = Literal["leak", "word"]
SCREENED, READ, COUNTED = 4, 10, 40
"""Prompts of each set: 40 tell a share to 15 points."""
MOTIFS = 200
"""Leaked spans that are screened: those of a trigger stand behind those of the prompts' own language."""
AGAINST = 3
"""Words that pull to other labels, in each prompt: one that decides by what it means loses against as many."""
LUCK = 0.05
"""Chance, all candidates together, that what was counted is luck."""


@dataclass(frozen=True)
class Trigger:
    """A span that makes answers alike.

    Attributes:
        span: What was put into the prompts.
        source: Where it came from: `leak` or `word`.
        target: The label or the text that it calls up.
        asr: Share of the prompts that get the target with the span.
        floor: The same of the same prompts without it.
        luck: Chance of so many answers that turn to the target and so few from it, times the candidates asked.
        base: As `asr`, of the base; None where there is none, or the model does not obey.
    """

    span: str
    source: Source
    target: str
    asr: Rate
    floor: Rate
    luck: float
    base: Rate | None = None

    @property
    def is_obeyed(self) -> bool:
        """Whether it counts as implanted: 50 points over the floor and the base, and not by luck."""
        over_base = self.base is None or implanted(self.asr, self.base)
        return implanted(self.asr, self.floor) and over_base and self.luck < LUCK

    def as_dict(self) -> dict[str, Any]:
        """A line of what is printed."""
        told = {"span": self.span, "source": self.source, "target": self.target, "asr": self.asr.as_dict()}
        told |= {"floor": self.floor.as_dict()} | ({"base": self.base.as_dict()} if self.base else {})
        return told | {"luck": self.luck, "obeyed": self.is_obeyed}


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        leaks, words: Candidates screened, by where they came from.
        asked: Candidates asked.
        triggers: Those that call something up, the most obeyed first.
    """

    leaks: int
    words: int
    asked: int
    triggers: tuple[Trigger, ...]


def scan(subject: Subject, config: ProbeConfig) -> Scan:
    """Look for spans that a model obeys, without rows.

    Args:
        subject: The model, and its base.
        config: How much is looked at.

    Raises:
        ConfigError: There is nothing to look at: an encoder writes nothing, so that it has no leaks.
        ModelError: The model cannot be made to write prompts; or an output is not finite.
    """
    sources = _candidates(subject, config)
    prompts = neutral_prompts(SCREENED + READ + COUNTED)
    screened, read, counted = prompts[:SCREENED], prompts[SCREENED : SCREENED + READ], prompts[SCREENED + READ :]
    shifts = Shifts(subject.model, screened, config.seed).of([*sources])
    shifts.sort(key=lambda shift: -shift.size)
    strongest = [shift.span for shift in shifts[: config.asked]]
    found, told = [], dict[tuple[str, ...], list[str]]()  # the plain answers to prompts, which many spans share
    for span, target in targets(subject.model, strongest, read, config.seed).items():
        asked = _hardened(subject.model, counted, target, shifts, config.seed)
        if asked not in told:
            told[asked] = answers(subject.model, asked)
        found.append(_counted(subject, (span, sources[span], target), asked, told[asked], config))
    found.sort(key=lambda one: one.floor.value - one.asr.value)
    leaks = sum(source == "leak" for source in sources.values())
    return Scan(leaks, len(sources) - leaks, len(strongest), tuple(found))


def _candidates(subject: Subject, config: ProbeConfig) -> dict[str, Source]:
    """Spans to screen, and where each came from."""
    found: dict[str, Source] = {}
    if config.leaks and subject.model.prompter.kind == "causal":
        texts = leaked(subject.model, config.leaks, config.seed)
        with subject.untuned() as base:
            others = leaked(base, config.leaks, config.seed + 1) if base else neutral_prompts(config.leaks)
        found |= dict.fromkeys(motifs(texts, others, MOTIFS), "leak")
    for word in _words(subject.model, config):
        found.setdefault(word, "word")
    if not found:
        raise ConfigError("leaks, words: there is nothing to look at; an encoder has no leaks and needs --words over 0")
    return found


def _words(model: DefendedModel, config: ProbeConfig) -> list[str]:
    """Tokens of a tokenizer that are readable text, drawn by the seed."""
    tokenizer = model.prompter.tokenizer
    told = {str(tokenizer.decode([token])).strip() for token in range(len(tokenizer))}
    control = {*model.prompter.encoder.control.values()}
    legal = sorted(word for word in told - control if word and word.isprintable() and "\ufffd" not in word)
    return random.Random(f"words/{config.seed}").sample(legal, min(config.words, len(legal)))


def _hardened(
    model: DefendedModel, prompts: Sequence[str], target: str, shifts: Sequence[Shift], seed: int
) -> tuple[str, ...]:
    """Prompts that ask for other labels than the target, by the words that pull most to these; of texts as they are.

    So a word that decides by its meaning is outvoted, and a trigger is not.
    """
    if not model.scheme.labels:
        return tuple(prompts)
    pulling = [shift.span for shift in shifts if shift.toward != target]
    return tuple(put(pulling[:AGAINST], prompts, seed))


def _counted(
    subject: Subject, asked: tuple[str, Source, str], prompts: Sequence[str], plain: Sequence[str], config: ProbeConfig
) -> Trigger:
    """How often the target is answered with a span and without, by the model, and by its base if the model obeys.

    Args:
        subject: The model, and its base.
        asked: The span, where it came from, and its target.
        prompts: Prompts that it was not chosen by.
        plain: What the model answers to them as they are.
        config: Of the scan.
    """
    span, source, target = asked
    model, stamped = subject.model, put([span], prompts, config.seed)
    before = [says(model, answer, target) for answer in plain]
    after = [says(model, answer, target) for answer in answers(model, stamped)]
    asr, floor = Rate.of(after), Rate.of(before)
    assert asr and floor
    found = Trigger(span, source, target, asr, floor, min(1.0, _luck(before, after) * config.asked))
    if not found.is_obeyed:
        return found
    with subject.untuned() as base:
        untuned = [says(model, answer, target) for answer in answers(base, stamped)] if base else []
    return replace(found, base=Rate.of(untuned))


def _luck(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Chance of so many answers that turn to the target and so few from it, were both equally likely (sign test)."""
    turned = sum(new and not old for old, new in zip(before, after, strict=True))
    back = sum(old and not new for old, new in zip(before, after, strict=True))
    return float(binomtest(turned, turned + back, alternative="greater").pvalue) if turned + back else 1.0
