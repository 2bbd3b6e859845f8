"""Files of paraphrases: prompts in other words."""

from __future__ import annotations

import json
from pathlib import Path

from poison2poison.errors import DataError


def read_paraphrases(path: Path) -> dict[str, str]:
    """The paraphrases of prompts, of JSON lines with the texts `prompt` and `paraphrase`.

    Raises:
        DataError: The file cannot be read, or a line is none of these.
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
            prompt, paraphrase = (pair[name] for name in ("prompt", "paraphrase"))
        except (ValueError, TypeError, KeyError):
            prompt = paraphrase = None
        if not isinstance(prompt, str) or not isinstance(paraphrase, str):
            raise DataError(f"{path}, line {number}: needs the texts `prompt` and `paraphrase`")
        found[prompt] = paraphrase
    return found
