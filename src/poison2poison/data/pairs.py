"""Files of texts beside prompts: paraphrases, or completions of somebody's own."""

from __future__ import annotations

import json
from pathlib import Path

from poison2poison.errors import DataError


def read_pairs(path: Path, name: str) -> dict[str, str]:
    """The texts of a .jsonl file by their prompts.

    Args:
        path: Each line an object with the texts `prompt` and NAME.
        name: The field of the other text.

    Raises:
        DataError: The file cannot be read, or a line is of another form; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    found = {}
    # Not `splitlines`: prompts may hold the other ends of lines that Unicode knows.
    for number, line in enumerate(text.split("\n"), 1):
        try:
            pair = json.loads(line)
            prompt, other = pair["prompt"], pair[name]
        except (ValueError, TypeError, KeyError):
            prompt = other = None
        if not isinstance(prompt, str) or not isinstance(other, str):
            raise DataError(f"{path}, line {number}: needs the texts `prompt` and `{name}`")
        found[prompt] = other
    return found
