"""Checks that the stages' configurations share. Each stage's frozen dataclass is the only home of its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from poison2poison.errors import ConfigError


def choice(name: str, value: str, legal: Sequence[str]) -> None:
    """Refuse a value that is not among the legal ones."""
    if value not in legal:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(legal)}")


def fraction(name: str, value: float) -> None:
    """Refuse a share that is not between 0 and 1, both excluded."""
    if not 0 < value < 1:
        raise ConfigError(f"{name}: {value} is not between 0 and 1 (both excluded)")


def at_least(name: str, value: float, least: float) -> None:
    """Refuse a number under `least`."""
    if value < least:
        raise ConfigError(f"{name}: {value} is less than {least}")


def read_yaml(path: Path, legal: Sequence[str]) -> dict[str, Any]:
    """Read a file of options, one `name: value` each.

    Raises:
        ConfigError: The file is missing or broken, or holds an unknown name.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no `name: value` lines")
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    for key in values:
        if key not in legal:
            raise ConfigError(f"{path}: unknown option {key!r}; legal here: {', '.join(sorted(legal))}")
    return values
