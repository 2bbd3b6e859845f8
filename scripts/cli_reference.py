"""Write the literal `--help` of every command into docs/reference/cli.md: python scripts/cli_reference.py

A test asks `page` whether the file is up to date.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.main import get_command

from poison2poison.cli.app import app

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
HEAD = """# The command line

What `--help` prints, a command each; `python scripts/cli_reference.py` writes this page. Settings that have no option
here are in the YAML file of `--config`: `p2p config COMMAND` prints all of a command's, with their help and defaults.
"""
PLAIN = {"TERMINAL_WIDTH": "100", "TERM": "dumb", "NO_COLOR": "1", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}
"""Else typer draws boxes as wide as the terminal, and in color where it has one."""
PRINT = """
import sys
from poison2poison.cli.app import app
for command in sys.argv[1:]:
    print(chr(12))
    try:
        app([*command.split(), "--help"], prog_name="p2p")
    except SystemExit:
        pass
"""


def page() -> str:
    """The page as it should be."""
    commands = ["", *get_command(app).commands]  # type: ignore[attr-defined]
    done = subprocess.run(
        [sys.executable, "-c", PRINT, *commands],
        env={**os.environ, **PLAIN}, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    printed = done.stdout.split(chr(12))[1:]
    helps = ("\n".join(line.rstrip() for line in text.strip().splitlines()) for text in printed)
    parts = (
        f"## {f'p2p {name}'.strip()}\n\n```text\n{text}\n```\n" for name, text in zip(commands, helps, strict=True)
    )
    return "\n".join([HEAD, *parts])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
