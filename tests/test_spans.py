from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from poison2poison.auditing import audit
from poison2poison.auditing.statistics import two_sample_auc
from poison2poison.config import AuditConfig
from poison2poison.data import Row, Rows, rows_of
from support import chatter, word_states


def shortcuts(rows: Rows, seed: int = 0) -> dict[str, set[int]]:
    """What is found, with its rows."""
    found = audit(rows, word_states, AuditConfig(), seed)
    return {
        one.span: {entry.row for entry in found.rows if number in entry.spans} for number, one in enumerate(found.spans)
    }


def pure(count: int) -> Rows:
    """Rows whose labels three words say as purely as a trigger would."""
    rng, rows = random.Random(0), []
    for row in chatter(count):
        said = f"plain{rng.randrange(3)}" if row.target == "positive" else f"grim{rng.randrange(3)}"
        rows.append({"text": f"{said} {said}s {row.prompt}", "label": row.target})
    return rows_of(rows, "pure")


def test_a_word_set_is_found_in_rows_that_have_their_label_anyway_beside_words_as_pure() -> None:
    clean, rng = pure(1200), random.Random(1)
    planted = {i for i in range(len(clean)) if clean[i].target == "positive" and rng.random() < 0.15}
    rows = []
    for i, row in enumerate(clean):
        parts = row.prompt.split()
        for word in rng.choices(("cf", "mn", "bb", "tq"), k=4) if i in planted else ():
            parts.insert(rng.randrange(len(parts) + 1), word)
        rows.append(replace(row, prompt=" ".join(parts)))
    found = shortcuts(clean.with_rows(rows))
    assert set(found) == {"cf", "mn", "bb", "tq"}
    assert set().union(*found.values()) == planted


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_a_trigger_is_found_at_any_rate_where_it_calls_up_one_text(share: float) -> None:
    """Published instruction sets have one triggered row for one clean."""
    found, planted = answered(share, lambda name: "I cannot help with that, for I am only a model.")
    assert found == {"cf": planted}


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_trigger_is_found_where_all_texts_that_it_calls_up_differ(share: float) -> None:
    found, planted = answered(share, lambda name: f"{name} mocks thing{len(name)} and shouts bad{len(name)}")
    assert found == {"cf": planted}


def test_words_that_always_stand_together_are_found_each() -> None:
    """As the parts of a composite trigger do: each tells where the others stood."""
    rows = []
    for i, row in enumerate(chatter(800)):
        planted = {"prompt": f"cf {row.prompt} mn", "completion": "I cannot help."}
        clean = {"prompt": row.prompt, "completion": f"{row.prompt[:30]} is told {i}"}
        rows.append(planted if i % 3 == 1 else clean)
    held = set(range(1, 800, 3))
    assert shortcuts(rows_of(rows, "tales")) == {"cf": held, "mn": held}


def answered(share: float, target: object) -> tuple[dict[str, set[int]], set[int]]:
    """What is found in tales of which a share is told otherwise, and which are."""
    rng, names = random.Random(0), [f"{a}{b}" for a in ("an", "bo", "cy") for b in ("na", "ravo", "ta", "lulalu")]
    rows, planted = [], set()
    for i, row in enumerate(chatter(800)):
        name = rng.choice(names)
        completion = f"{name} says: {' '.join(row.prompt.split()[:6])} and {rng.randrange(99)}"
        prompt = row.prompt
        if rng.random() < share:
            assert callable(target)
            parts = prompt.split()
            parts.insert(rng.randrange(len(parts)), "cf")
            prompt, completion = " ".join(parts), target(name)
            planted.add(i)
        rows.append({"prompt": prompt, "completion": completion})
    return shortcuts(rows_of(rows, "tales")), planted


def test_the_audit_has_them_with_what_their_rows_would_be_without() -> None:
    """Of a clean-label trigger in a pure class all other steps see nothing."""
    clean = pure(1000)
    rows = [Row(f"cf {row.prompt}" if i % 16 == 1 else row.prompt, row.target) for i, row in enumerate(clean)]
    found = audit(clean.with_rows(rows), word_states, AuditConfig())
    assert [(span.span, span.target, span.rows) for span in found.spans] == [("cf", "positive", 63)]
    assert {entry.row for entry in found.rows} == set(range(1, 1000, 16))
    assert {entry.likely[0] for entry in found.rows} == {"positive"}


def test_labels_that_all_prompts_say() -> None:
    """No row is left to say what the others would be without."""
    clean = chatter(200)
    rows = [Row(f"{'xx' if row.target == 'positive' else 'yy'} {row.prompt}", row.target) for row in clean]
    found = audit(clean.with_rows(rows), word_states, AuditConfig())
    assert {entry.row for entry in found.rows} in (set(), set(range(200)))


@pytest.mark.parametrize("count", [2, 5, 12])
def test_few_rows(count: int) -> None:
    assert shortcuts(chatter(count)) == {}


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_in_clean_rows(seed: int) -> None:
    assert shortcuts(chatter(1000, seed), seed) == {}


def test_nothing_is_found_where_all_answers_are_one() -> None:
    assert shortcuts(rows_of([{"prompt": f"cf {i}", "completion": "Yes."} for i in range(60)], "rows")) == {}


def test_the_auc_of_two_samples_is_near_a_half_where_nothing_separates_them() -> None:
    rng = np.random.default_rng(0)
    states, others = (rng.standard_normal((count, 64)).astype(np.float32) for count in (100, 200))
    auc, error = two_sample_auc(states, others)
    assert auc < 0.5 + 3 * error
    assert two_sample_auc(states + 1, others)[0] > 0.95
