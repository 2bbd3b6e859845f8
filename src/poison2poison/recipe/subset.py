"""S, the part of the rows that moves to the safe space."""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from poison2poison.data import Row
from poison2poison.errors import DataError

logger = logging.getLogger(__name__)


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
    counts = counts_of(rows, likely or {}) if stratified else {"": len(rows)}
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
                "all %d rows%s are suspect or have weak findings: the safe space has none of them, and the defended "
                "model will hardly answer like them. Look at the audit: add clean rows of the kind, or leave the kind "
                "out; where the spans are innocent, raise min_rows",
                len(members),
                f" of label {label!r}" if stratified else "",
            )
        staying = sum(i not in dropped for i in members)
        wanted = min(max(1, staying - 1), max(1, round(rho * counts[label])))
        chosen += rng.sample(open_rows, min(wanted, len(open_rows)))
    return sorted(chosen)


def counts_of(rows: Sequence[Row], likely: Mapping[int, str]) -> Counter[str]:
    """Rows of each label, suspects under the one that the probe gives them."""
    return Counter(likely.get(i, row.target) for i, row in enumerate(rows))
