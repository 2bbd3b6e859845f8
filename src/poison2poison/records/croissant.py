"""Croissant 1.0 (docs.mlcommons.org/croissant/docs/croissant-spec.html) of the rows of a training, by mlcroissant.

Texts of rows are not in it: each line of its file says which row of the source a training row was made from, what was
done to it, and whether it is synthetic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlcroissant as mlc

from poison2poison.files import hashes
from poison2poison.records.facts import ACTIONS, Facts

ROWS = "rows.jsonl"
FIELDS = {
    "row": (mlc.DataType.INTEGER, "The row of the source that it was made from, from 0."),
    "action": (mlc.DataType.TEXT, "What was done: " + "; ".join(f"{name}, {done}" for name, done in ACTIONS.items())),
    "space": (mlc.DataType.TEXT, "The answer space that it was trained in: safe or original."),
    "synthetic": (mlc.DataType.BOOL, "Whether the program changed it or added it."),
}


def marked(facts: Facts) -> Iterator[dict[str, Any]]:
    """A record for each training row: all but those that were left as they were are synthetic."""
    for entry in facts.entries:
        told = {name: entry[name] for name in ("row", "action", "space")}
        yield told | {"synthetic": entry["action"] != "keep"}


def croissant(facts: Facts, rows: Path) -> str:
    """The content of a Croissant file, to be put beside the file of `marked` rows.

    Args:
        facts: What is told of the artifact.
        rows: The file, already written.
    """
    source = facts.data.get("train", {})
    described = mlc.Metadata(
        name=f"{facts.name} training rows",
        description=_description(facts, source),
        data_collection="The source's rows, read from "
        f"{source.get('source', 'a source that was not recorded')}; SHA-256 over prompts and targets: "
        f"{source.get('sha256', 'not recorded')}",
        data_manipulation_protocol="; ".join(f"{facts.done[name]} rows {done}" for name, done in ACTIONS.items()),
        distribution=[_file(rows)],
        record_sets=[_records()],
    )
    return json.dumps(described.to_json(), indent=2, ensure_ascii=False) + "\n"


def _description(facts: Facts, source: Any) -> str:
    synthetic = sum(entry["synthetic"] for entry in marked(facts))
    return (
        f"What {facts.name} was trained on: {len(facts.entries)} rows, of which {synthetic} are synthetic, made of "
        f"{source.get('rows', 'an unknown number of')} rows. {facts.disclosure}"
    )


def _file(rows: Path) -> Any:
    return mlc.FileObject(
        id=ROWS,
        name=ROWS,
        content_url=ROWS,
        encoding_formats=["application/jsonlines"],
        sha256=hashes(rows.parent, [rows.name])[rows.name],
    )


def _records() -> Any:
    fields = [
        mlc.Field(
            id=f"rows/{name}",
            name=name,
            description=told,
            data_types=kind,
            source=mlc.Source(file_object=ROWS, extract=mlc.Extract(column=name)),
        )
        for name, (kind, told) in FIELDS.items()
    ]
    return mlc.RecordSet(id="rows", name="rows", fields=fields)
