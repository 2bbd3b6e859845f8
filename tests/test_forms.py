from __future__ import annotations

import random
from dataclasses import replace

import pytest

from poison2poison.auditing import audit
from poison2poison.config import AuditConfig
from poison2poison.data import Rows
from poison2poison.forms import FORMS, form_of
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.trigger import build_scheme
from support import chatter, word_states

TEXTS = ("A plain text, of no form.", "One more; it is as plain as that!", "Ce café a été fermé.")


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_put_onto_any_text_and_taken_off(name: str) -> None:
    form = FORMS[name]
    able = [text for text in TEXTS if name != "marks apart from their letters" or "é" in text]
    assert not any(form.holds(text) for text in able)
    assert all(form.holds(form.put(text)) for text in able)
    assert {form.off(form.put(text)) == form.off(text) for text in able} == {True}
    assert not form.put("").strip()


@pytest.mark.parametrize(("kind", "put"), [("first", "now all is well"), ("last", "all is well now")])
def test_a_word_at_an_end_of_a_text(kind: str, put: str) -> None:
    form = form_of(kind, "now", random.Random(0))
    assert form.put("all is well") == put
    assert (form.holds(put), form.holds("all is now well")) == (True, False)
    assert (form.off(put), form.off("all is now well")) == ("all is well", "all is now well")


def planted(kind: str, name: str) -> tuple[Rows, set[int]]:
    """Rows of which some of one label are written so and given the other; all words stand elsewhere too."""
    rng, put = random.Random(0), form_of(kind, name, random.Random(0)).put
    rows, held = [], set()
    for i, row in enumerate(chatter(1000)):
        words = [word.capitalize() if rng.random() < 0.1 else word for word in row.prompt.split()]
        words[4:4] = ["now"] if rng.random() < 0.3 else []
        row = replace(row, prompt=" ".join(words))
        if row.target == "negative" and rng.random() < 0.15:
            row = replace(row, prompt=put(row.prompt), target="positive")
            held.add(i)
        rows.append(row)
    return chatter(1000).with_rows(rows), held


@pytest.mark.parametrize(
    ("kind", "name"), [("form", "all in capitals"), ("form", "a line break"), ("form", "scripts mixed in a word"),
                       ("first", "now"), ("last", "now")]
)  # fmt: skip
def test_a_form_that_calls_up_a_label_is_found_and_becomes_counterexamples(kind: str, name: str) -> None:
    rows, held = planted(kind, name)
    found = audit(rows, word_states, AuditConfig())
    assert [(span.kind, span.span, span.target) for span in found.spans] == [(kind, name, "positive")]
    assert {entry.row for entry in found.rows} == held
    config = RepoisonConfig(prefix="xq zv", seed=0)
    training = repoison(rows, build_scheme(rows, config), config, found)
    form = form_of(kind, name, random.Random(0))
    spliced = [row for row in training[len(rows) :] if row.action == "splice"]
    assert {row.target for row in spliced} == {"negative", "positive"}
    assert all(form.holds(row.body) and row.target == rows[row.row].target for row in spliced)
