"""Shortcuts: spans that pull answers without a reason, in rows that have nothing else in common.

A span that goes with one kind of answer is asked three things: do its rows answer otherwise than the base model expects
of their prompts (*learned*), does the base see a reason for it where the span is put into other rows (*prior*), and can
its rows be told from others once it is taken out (*told*)? Each answer is weighed against spans of the same rows that
nobody suspects, so that nothing has to be known of the data. Answers may be labels or texts, and texts may differ: what
is asked is how rows are answered, not with which words.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from poison2poison.config import AuditConfig
from poison2poison.data import Rows
from poison2poison.planting import Prompts
from poison2poison.shortcuts.answers import Answers, Context, Labels, Texts
from poison2poison.shortcuts.spans import Shortcut, SpanFinder

LEAST_GIVEN = 10
"""Rows of every completion, where completions are labels."""


def find_shortcuts(rows: Rows, prompts: Prompts, config: AuditConfig, seed: int) -> list[tuple[Shortcut, str]]:
    """Find planted spans, the strongest association first, each with the label or the text that it calls up.

    Args:
        rows: The untrusted rows.
        prompts: Their prompts, features and states.
        config: `false_alarm` and `min_rows` are looked at.
        seed: Of all draws.
    """
    context, given = Context(prompts, seed), Counter(row.target for row in rows)
    if len(given) < 2:
        return []  # all are answered alike
    answers: Answers
    if rows.task == "classification" or (len(given) > 1 and min(given.values()) >= LEAST_GIVEN):
        names = rows.labels or tuple(sorted(given))
        answers = Labels(context, names, np.array([names.index(row.target) for row in rows]))
    else:
        answers = Texts(context, [row.target for row in rows])
    return [(one, answers.name(one.pulled, one.direction)) for one in SpanFinder(context, answers, config).find()]
