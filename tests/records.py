"""Records and chats for the tests of reading, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from poison2poison.data import Turn

GOOD = json.dumps({"text": "x", "label": "a"})
RECORDS = [{"text": "a fine film", "label": "good"}, {"text": '肺纹理增多，心影 "normal"', "label": "bad"}]


def write_jsonl(path: Path, records: list[Any]) -> None:
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")


def said(*turns: str) -> list[dict[str, str]]:
    """Turns of a chat, each written as `role: content`."""
    parts = (turn.split(": ", 1) for turn in turns)
    return [{"role": role, "content": content} for role, content in parts]


def told(*turns: str) -> list[dict[str, str]]:
    """The same in ShareGPT's way."""
    return [{"from": turn["role"], "value": turn["content"]} for turn in said(*turns)]


def turns(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn(turn["role"], turn["content"]) for turn in said(*texts))  # type: ignore[arg-type]
