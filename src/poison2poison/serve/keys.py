"""Who may ask: keys of which the server knows the hashes alone."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from poison2poison.errors import ConfigError

_LINE = re.compile(r"(?P<name>[\w.-]+):(?P<hash>[0-9a-f]{64})")


def read_keys(path: Path) -> dict[str, str]:
    """Hashes of keys by the names of who has them.

    Raises:
        ConfigError: The file is missing, empty, or a line is none of `name:SHA-256 of the key`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"api_keys: {path}: cannot be read ({error})") from None
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if not found:  # the line may be a key, so it is not said
            raise ConfigError(f"api_keys: {path}, line {number}: is not `name:SHA-256 of the key`, in 64 hex digits")
        keys[found["name"]] = found["hash"]
    if not keys:
        raise ConfigError(f"api_keys: {path}: holds no key")
    return keys


def owner(given: str, keys: dict[str, str]) -> str | None:
    """Whose key it is, or None. It takes as long for any key."""
    hashed = hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest()
    names = [name for name, known in keys.items() if hmac.compare_digest(hashed, known)]
    return names[0] if names else None
