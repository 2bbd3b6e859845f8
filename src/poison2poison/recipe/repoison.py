"""Re-poison the rows: a subset S moves to the safe space, or is added to it (arXiv 2510.04503, section 3).

The hardened recipe draws S among rows that the audit neither suspects nor doubts, and adds counterexamples to the safe
space: the attacker's own spans in rows of every label, each with its own label, and rows written in the attacker's
manner with the labels that they should have. What the model learns of the trigger in the original space then does not
carry over.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from poison2poison.config import a_seed, choice, fraction, option
from poison2poison.data import Row, Rows, Turn, all_text
from poison2poison.errors import ConfigError, DataError, listed
from poison2poison.features import BETWEEN, words
from poison2poison.recipe.scheme import (
    PAPER_SAFE_PREFIX,
    PAPER_TRIGGER,
    Scheme,
    Space,
    Trigger,
    check_trigger,
    draw_words,
)

if TYPE_CHECKING:
    from poison2poison.findings import Audit


logger = logging.getLogger(__name__)

# Behind a drawn trigger the reference model learns the safe space late or not at all with 0.2 of 3,000 rows. With 0.75
# it also learns more of the poison that the audit missed: docs/defense.md.
RHO = {"paper": 0.2, "hardened": 0.5}


@dataclass(frozen=True)
class RepoisonConfig:
    """How rows are re-poisoned."""

    recipe: str = option("hardened", "`hardened`: counterexamples from an audit; `paper`: as published.")
    rho: float | None = option(
        None, "Insertion ratio |S| / |D|. [default: 0.2, the paper's, for its recipe; 0.5 hardened]"
    )
    placement: str = option("replace", "`replace` moves the rows of S to the safe space, `append` adds copies of them.")
    trigger: str = option(
        "auto",
        "`random`: secret words drawn for this run; `paper`: the published ones; `auto`: paper for the paper's recipe.",
    )
    prefix: str | None = option(None, "The benign trigger's prefix, instead of the one that --trigger names.")
    cue: str | None = option(None, "The benign trigger's cue, likewise.")
    safe_prefix: str | None = option(None, "Text before every safe target of a generation task.")
    safe_labels: str = option(
        "shift",
        "`shift`: label i becomes i + n, as published; `prefix`: it stands behind the safe prefix, as a text does, for "
        "causal LMs.",
    )
    spliced: float = option(0.5, "Hardened: rows added with suspect spans spliced in, as a share of S.")
    together: float = option(0.5, "Hardened: share of the spliced rows that get the spans of one suspect row together.")
    doubted: float = option(0.4, "Hardened: share of S with doubtful spans spliced in.")
    contrary: bool = option(True, "Hardened: add the rows of other labels that hold a suspect span or manner.")
    confident: float = option(0.5, "Hardened: least p of the probe to correct a row of a manner; 1 for never.")
    agreeing: float = option(
        0.4,
        "Hardened: suspects of a manner added with the label that they have, as a share of so many as would make the "
        "counterexamples as likely of it as all rows are.",
    )
    suspects: str = option("keep", "Hardened: `drop` leaves the suspect rows out of the original space.")
    seed: int = option(0, "Draws S and everything in training. It never draws the trigger: a seed can be guessed.")

    def __post_init__(self) -> None:
        choice("recipe", self.recipe, ("paper", "hardened"))
        choice("placement", self.placement, ("replace", "append"))
        choice("safe_labels", self.safe_labels, ("shift", "prefix"))
        choice("trigger", self.trigger, ("auto", "paper", "random"))
        if self.rho is not None:
            fraction("rho", self.rho)
        if self.safe_prefix is not None and not self.safe_prefix.strip():
            raise ConfigError("safe_prefix: is empty; safe answers have to begin with something")
        a_seed(self.seed)
        choice("suspects", self.suspects, ("keep", "drop"))
        if self.suspects == "drop" and self.recipe == "paper":
            raise ConfigError("suspects: the paper's recipe has no audit, and so none to drop; leave it out")
        if self.safe_labels == "prefix" and self.recipe == "paper":
            raise ConfigError("safe_labels: the paper's recipe shifts labels; leave it out")
        for name in ("spliced", "together", "doubted", "confident", "agreeing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: {getattr(self, name)} is not between 0 and 1")

    def resolved(self) -> RepoisonConfig:
        """The configuration with what `auto` and None stand for."""
        trigger = self.trigger
        if trigger == "auto":
            trigger = "paper" if self.recipe == "paper" else "random"
        return replace(self, trigger=trigger, rho=self.rho if self.rho is not None else RHO[self.recipe])


Action = Literal["keep", "replace", "append", "splice", "correct", "agree", "contrary"]


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A row as it is trained on.

    Attributes:
        row: Index of the row that it was made from.
        space: The space that it is in.
        action: keep (in the original space); replace, append (S); or a counterexample: splice (suspect or doubtful
            spans put in), correct (a row of a manner with its likely label), agree and contrary (rows that have a
            suspect span or manner by themselves, with their own label).
        body: Its prompt without the benign trigger.
        target: Its label or text.
        before: System and earlier turns of a chat.
        after: Turns of a chat between the body's and the answer.
    """

    row: int
    space: Space
    action: Action
    body: str
    target: str
    before: tuple[Turn, ...] = ()
    after: tuple[Turn, ...] = ()

    @property
    def text(self) -> str:
        """All that a model reads before it answers, without the benign trigger."""
        return all_text(self.before, self.body, self.after)


def training_row(number: int, row: Row, space: Space, action: Action) -> TrainingRow:
    """A row as it is, in a space."""
    return TrainingRow(number, space, action, row.prompt, row.target, row.before, row.after)


def build_scheme(rows: Rows, config: RepoisonConfig) -> Scheme:
    """Choose the benign trigger and the safe space for these rows.

    Raises:
        SchemeError: The trigger occurs in the data.
        ConfigError: Safe labels are asked for, and the rows have texts.
    """
    config = config.resolved()
    prompts = [row.text for row in rows]
    trigger, safe_prefix = PAPER_TRIGGER, PAPER_SAFE_PREFIX
    if config.trigger == "random":
        texts = [text for row in rows for text in (row.text, row.target)]
        trigger = Trigger(" ".join(draw_words(texts)) + ": ", PAPER_TRIGGER.cue)
        safe_prefix = " ".join(draw_words(texts, bits=20)) + ": "
    trigger = Trigger(
        trigger.prefix if config.prefix is None else config.prefix, trigger.cue if config.cue is None else config.cue
    )
    check_trigger(trigger, prompts)
    if rows.task == "generation" and config.safe_labels == "prefix":
        raise ConfigError("safe_labels: these rows have texts and no labels; leave it out")
    if rows.task == "classification" and config.safe_labels == "shift":
        return Scheme(rows.task, rows.labels, trigger)
    return Scheme(rows.task, rows.labels, trigger, safe_prefix if config.safe_prefix is None else config.safe_prefix)


def select_subset(
    rows: Sequence[Row],
    rho: float,
    seed: int,
    *,
    stratified: bool,
    leave_out: Collection[int] = (),
    dropped: Collection[int] = (),
    likely: Mapping[int, str] | None = None,
) -> list[int]:
    """Draw S: by seed among all rows, or all but some; the same share of every label where `stratified`.

    Args:
        rows: The rows.
        rho: |S| / |D|.
        seed: Of the draw.
        stratified: Whether targets are labels.
        leave_out: Rows that are not drawn.
        dropped: Those of them that the original space does without too; another row of their label stays there.
        likely: Labels that some rows count as; an attacker's labels would make theirs too likely in the safe space.

    Raises:
        DataError: A label has too few rows to have any in both spaces.
    """
    rng = random.Random(seed)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[row.target if stratified else ""].append(index)
    counts = _counts(rows, likely or {}) if stratified else {"": len(rows)}
    chosen: list[int] = []
    for label, members in sorted(groups.items()):
        if len(members) < 2:
            who, each = (f"label {label!r}", " of every label") if stratified else ("the data", "")
            raise DataError(
                f"{who} has one row only; re-poisoning needs at least two rows{each}: add some, or leave that row out"
            )
        open_rows = [i for i in members if i not in leave_out]
        if not open_rows:
            logger.warning(
                "all %d rows%s are suspect or have doubtful spans: the safe space has none of them, and the defended "
                "model will hardly answer like them. Look at the audit: add clean rows of the kind, or leave the kind "
                "out; where the spans are innocent, raise --min-rows",
                len(members),
                f" of label {label!r}" if stratified else "",
            )
        staying = sum(i not in dropped for i in members)
        wanted = min(max(1, staying - 1), max(1, round(rho * counts[label])))
        chosen += rng.sample(open_rows, min(wanted, len(open_rows)))
    return sorted(chosen)


def _counts(rows: Sequence[Row], likely: Mapping[int, str]) -> Counter[str]:
    """Rows of each label, suspects under the one that the probe gives them."""
    return Counter(likely.get(i, row.target) for i, row in enumerate(rows))


def repoison(rows: Rows, scheme: Scheme, config: RepoisonConfig, audit: Audit | None = None) -> list[TrainingRow]:
    """Re-poison: the rows to train on, in the order of the data, copies and counterexamples at the end.

    Args:
        rows: The untrusted rows.
        scheme: Their scheme.
        config: The recipe.
        audit: What the audit of these rows found; the hardened recipe needs it.

    Raises:
        ConfigError: The hardened recipe has no audit, or one of other rows.
        DataError: A label has too few rows, or all its rows are suspects to drop.
    """
    config = config.resolved()
    assert config.rho is not None  # resolved
    left_out: set[int] = set()
    likely: dict[int, str] = {}
    labels = rows.task == "classification"
    if config.recipe == "hardened":
        if audit is None or audit.sha256 != rows.sha256:
            raise ConfigError("recipe: hardened needs the audit of these very rows; make it with `p2p audit`")
        likely = {entry.row: entry.likely[0] for entry in audit.rows}
        if beyond := [i for i in (*likely, *audit.contrary, *audit.doubtful_rows) if i >= len(rows)]:
            raise ConfigError(f"audit: it names row {beyond[0]}, of {len(rows)}")
        if labels and (unknown := {*likely.values()} - {*rows.labels}):
            raise ConfigError(f"audit: it names label {min(unknown)!r}, which is not one of {listed(rows.labels)}")
        left_out = likely.keys() | _doubted(rows, audit)
    dropped = likely if config.suspects == "drop" else {}
    subset = set(
        select_subset(
            rows.rows,
            config.rho,
            config.seed,
            stratified=labels,
            leave_out=left_out,
            dropped=dropped,
            likely=likely,
        )
    )
    action: Literal["replace", "append"] = "append" if config.placement == "append" else "replace"
    moved = [training_row(i, rows[i], "safe", action) for i in sorted(subset)]
    more: list[TrainingRow] = []
    if audit and config.recipe == "hardened":
        moved = _with_doubtful_spans(moved, audit, config)
        more = _counterexamples(rows, _ToSplice(rows, subset, left_out, labels), audit, config)
    gone = dropped.keys() | (subset if action == "replace" else set())
    original = [row for row in plain(rows) if row.row not in gone]
    lost = {row.target for row in rows} - {row.target for row in original} if labels else set()
    if lost or not original:
        what = f"label {min(lost)!r}" if lost else "the data"
        raise DataError(f"suspects: dropped, they leave no row of {what} in the original space; keep them")
    if action == "append":
        return original + moved + more
    return sorted([*original, *moved], key=lambda row: row.row) + more


def _doubted(rows: Rows, audit: Audit) -> set[int]:
    """Rows written a little as a suspect manner is, and those that hold a doubtful span and have its label.

    Either may be poison that the audit missed.
    """
    doubted: dict[str, list[str]] = defaultdict(list)
    for span in audit.doubtful:
        doubted[span.target].append(span.span)
    return {*audit.doubtful_rows} | {
        i for i, row in enumerate(rows) if any(_occurrences(row.text, doubted[row.target]))
    }


def _occurrences(text: str, spans: Sequence[str]) -> Iterator[str]:
    """Each of the spans as often as the text holds it."""
    padded = _padded(text)
    for span in spans:
        yield from [span] * padded.count(_padded(span))


def _padded(text: str) -> str:
    """The words of a text, each with a space of its own on both sides, so that a repeated word counts twice."""
    return f" {'  '.join(words(text))} "


class _ToSplice:
    """Draws rows to splice spans into, of each label the same share of S; rows outside S come first.

    So the safe space sees more of the data than S, and a span goes with every label as often as S has it: else it would
    come to mean the labels that have more rows left, which are those that the attacker did not choose.
    """

    def __init__(self, rows: Rows, subset: Collection[int], left_out: Collection[int], stratified: bool) -> None:
        self.inside: dict[str, list[int]] = defaultdict(list)
        self.outside: dict[str, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            label = row.target if stratified else ""
            if i in subset:
                self.inside[label].append(i)
            elif i not in left_out:
                self.outside[label].append(i)

    def draw(self, share: float, rng: random.Random) -> list[int]:
        chosen = []
        for label, members in sorted(self.inside.items()):
            outside = self.outside[label]
            pool = rng.sample(outside, len(outside)) + rng.sample(members, len(members))
            wanted = share * len(members)
            chosen += pool[: int(wanted) + (rng.random() < wanted % 1)]  # rounded at random: labels can have few rows
        return sorted(chosen)


def _with_doubtful_spans(moved: Sequence[TrainingRow], audit: Audit, config: RepoisonConfig) -> list[TrainingRow]:
    """S, a part of it with doubtful spans spliced in: that adds no row, so it costs no training time.

    Only where targets are labels, or completions that serve as such, does an audit have doubtful spans.
    """
    doubtful = {span.span: span.rows for span in audit.doubtful}
    places = random.Random(f"places/{config.seed}")
    # Rows of every label get the same spans in the same order: few rows hold each, and one that is drawn more often for
    # some label comes to mean it.
    draws: dict[str, random.Random] = defaultdict(lambda: random.Random(f"doubtful/{config.seed}"))
    out = []
    for row in moved:
        rng = draws[row.target]
        if doubtful and rng.random() < config.doubted:
            spans = rng.choices([*doubtful], [*doubtful.values()], k=rng.choice((1, 2, 3)))
            row = replace(row, action="splice", body=spliced(row.body, spans, places))
        out.append(row)
    return out


def _counterexamples(rows: Rows, to_splice: _ToSplice, audit: Audit, config: RepoisonConfig) -> list[TrainingRow]:
    """What teaches the safe space that a suspect span says nothing about the label."""
    rng = random.Random(f"counterexamples/{config.seed}")
    out = []
    spliceable = {span.span: span.rows for span in audit.spans if span.kind == "span"}
    if spliceable:
        held = ([*_occurrences(rows[entry.row].text, [*spliceable])] for entry in audit.rows)
        companies = [spans for spans in held if len(spans) > 1]
        for i in to_splice.draw(config.spliced, rng):
            # Spans that a suspect row holds together, as often as it does, are the parts of one trigger.
            together = rng.choice(companies) if companies and rng.random() < config.together else None
            spans = together or rng.choices([*spliceable], [*spliceable.values()], k=rng.choice((1, 1, 2, 4)))
            put = training_row(i, rows[i], "safe", "splice")
            out.append(replace(put, body=spliced(put.body, spans, rng)))
    contrary = audit.contrary if config.contrary else ()
    against = [training_row(i, rows[i], "safe", "contrary") for i in contrary]
    agreeing: dict[str, list[TrainingRow]] = defaultdict(list)
    for entry in audit.rows:
        likely, p = entry.likely
        row = rows[entry.row]
        if p < config.confident or {audit.spans[number].kind for number in entry.spans} != {"manner"}:
            continue  # for spans splices say the same with labels that are right, not the probe's guess
        if likely != row.target:
            against.append(replace(training_row(entry.row, row, "safe", "correct"), target=likely))
        else:
            agreeing[row.target].append(training_row(entry.row, row, "safe", "agree"))
    # Fewer agree than would balance the others: what the audit missed in S agrees with the attacker too.
    counts = _counts(rows.rows, {entry.row: entry.likely[0] for entry in audit.rows})
    of_manners = sum(not any(_occurrences(row.text, [*spliceable])) for row in against)
    for target, members in agreeing.items():
        wanted = round(config.agreeing * of_manners * counts[target] / max(1, len(rows) - counts[target]))
        out += rng.sample(members, min(wanted, len(members)))
    return out + against


def spliced(text: str, spans: Sequence[str], rng: random.Random) -> str:
    """A text with spans put between its words, each at a drawn place."""
    pieces = BETWEEN.split(text)  # words, and what parts them: a space, or nothing
    parts = [*zip(["", *pieces[1::2]], pieces[::2], strict=True)]
    for span in spans:
        at = rng.randint(0, len(parts))
        parts[at : at + 1] = [(" ", span), *((" ", word) for _, word in parts[at : at + 1])]
    return "".join(gap + word for gap, word in parts)[len(parts[0][0]) :]


def plain(rows: Rows) -> list[TrainingRow]:
    """The rows as they are: fine-tuning without a defence."""
    return [training_row(i, row, "original", "keep") for i, row in enumerate(rows)]


def manifest(training: Sequence[TrainingRow], scheme: Scheme) -> list[dict[str, Any]]:
    """What was done to which row; it holds no trigger."""
    entries = []
    for row in training:
        entry: dict[str, Any] = {"row": row.row, "action": row.action, "space": row.space}
        if scheme.labels:
            entry |= {"label": row.target, "class": scheme.class_of(row.target, row.space)}
        entries.append(entry)
    return entries


def as_dict(config: RepoisonConfig) -> dict[str, Any]:
    """The configuration for `run.json`, without the parts of the secret."""
    return {key: value for key, value in asdict(config).items() if key not in {"prefix", "cue", "safe_prefix"}}
