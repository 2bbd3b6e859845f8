"""Records of an artifact for others to read: none of them holds the secret trigger.

facts      what an artifact says of itself, and what was measured of it
bom        CycloneDX ML-BOM 1.6
croissant  Croissant 1.0 metadata of the rows that it was trained on, with a line for each
card       model card in hub format
"""

from __future__ import annotations

from pathlib import Path

from poison2poison.files import refuse_taken, whole_folder, write_lines, write_text
from poison2poison.records.bom import bom
from poison2poison.records.card import card
from poison2poison.records.croissant import ROWS, croissant, marked
from poison2poison.records.facts import Facts, read_facts

__all__ = ["Facts", "read_facts", "write_records"]


def write_records(folder: Path, results: Path | None, out: Path) -> Facts:
    """Write all records of an artifact.

    Args:
        folder: The artifact folder.
        results: A `results.json` with an arm of the folder's name; without it there are no figures.
        out: The folder to write, missing or empty.

    Returns:
        What the records say.

    Raises:
        DataError: The figures or the manifest cannot be read.
        ModelError: The folder is no artifact, or its training did not end.
        OutputError: `out` holds something.
    """
    facts = read_facts(folder, results)
    refuse_taken(out)
    with whole_folder(out) as half:
        write_lines(half / ROWS, marked(facts))
        write_text(half / "croissant.json", croissant(facts, half / ROWS))
        write_text(half / "bom.cdx.json", bom(facts))
        write_text(half / "README.md", card(facts))
    return facts
