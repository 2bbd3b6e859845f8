"""Re-poison the rows: a subset S moves to the safe space, or is added to it (arXiv 2510.04503, section 3).

The hardened recipe draws S among rows that the audit neither suspects nor doubts, and adds counterexamples to the safe
space: the attacker's own spans in rows of every label, each with its own label, and rows written in the attacker's
style with the labels that they should have. What the model learns of the trigger in the original space then does not
carry over.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal

from poison2poison.data import Rows
from poison2poison.errors import ConfigError, DataError, listed
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.counterexamples import ToSplice, counterexamples, occurrences, with_weak_findings
from poison2poison.recipe.manifest import TrainingRow, plain, training_row
from poison2poison.recipe.scheme import Scheme
from poison2poison.recipe.subset import select_subset

if TYPE_CHECKING:
    from poison2poison.auditing.findings import Audit


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
        if beyond := [i for i in (*likely, *audit.off_target, *audit.alike_rows) if i >= len(rows)]:
            raise ConfigError(f"audit: it names row {beyond[0]}, of {len(rows)}")
        if labels and (unknown := {*likely.values()} - {*rows.labels}):
            raise ConfigError(f"audit: it names label {min(unknown)!r}, which is not one of {listed(rows.labels)}")
        left_out = likely.keys() | _like_findings(rows, audit)
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
        moved = with_weak_findings(moved, audit, config)
        more = counterexamples(rows, ToSplice(rows, subset, left_out, labels), audit, config)
    gone = dropped.keys() | (subset if action == "replace" else set())
    original = [row for row in plain(rows) if row.row not in gone]
    lost = {row.target for row in rows} - {row.target for row in original} if labels else set()
    if lost or not original:
        what = f"label {min(lost)!r}" if lost else "the data"
        raise DataError(f"suspects: dropped, they leave no row of {what} in the original space; keep them")
    if action == "append":
        return original + moved + more
    return sorted([*original, *moved], key=lambda row: row.row) + more


def _like_findings(rows: Rows, audit: Audit) -> set[int]:
    """Rows written a little as a suspect style is, and those that hold a weak finding and have its label.

    Either may be poison that the audit missed.
    """
    weak: dict[str, list[str]] = defaultdict(list)
    for span in audit.weak:
        weak[span.target].append(span.span)
    return {*audit.alike_rows} | {i for i, row in enumerate(rows) if any(occurrences(row.text, weak[row.target]))}
