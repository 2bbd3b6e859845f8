"""Whether a folder still holds what was recorded of it: an artifact's run.json, an export's export.json.

Who changes a file and the record too is found out by the signature alone (`signing`). Weights of the base model are not
in the folder; they are known by the revision in the record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, NamedTuple

from poison2poison.data import Rows
from poison2poison.errors import ModelError, SchemeError, told
from poison2poison.export.record import seals
from poison2poison.files import hashes
from poison2poison.model.run import ARTIFACT, refuse_unfinished
from poison2poison.recipe.scheme import Scheme, salt_of

State = Literal["same", "differs", "missing", "added", "not recorded"]
WRONG = ("differs", "missing", "added")


class Part(NamedTuple):
    """What a file is, and what it means if it is another one."""

    name: str
    meaning: str


SCHEME = Part("scheme", "trigger, labels or safe prefix may be others: answers may not be in the safe space")
MANIFEST = Part("manifest", "answers are the same; what it tells was done to the rows may be wrong")
ROWS = Part("rows", "the training was on other rows, or on these in another order")
EXPORTED = Part("exported file", "the trainer may be given other rows or settings")
OTHER = Part("other file", "no part of what was trained; delete it unless you know it")
PARTS = {
    "scheme.json": SCHEME,
    "manifest.jsonl": MANIFEST,
    "model/*.safetensors*": Part("weights", "another model answers than the one that was trained and checked"),
    "model/chat_template*": Part("template", "chats may be put together otherwise than in training"),
    "model/*config.json": Part("settings", "weights or tokens may be read otherwise than in training"),
    "model/*token*": Part("tokenizer", "texts may become other tokens than in training"),
    "model/vocab*": Part("tokenizer", "texts may become other tokens than in training"),
    "model/merges*": Part("tokenizer", "texts may become other tokens than in training"),
}
"""By patterns of file names, the first that fits."""


@dataclass(frozen=True)
class Compared:
    """One file, or the training rows, held against the record.

    Attributes:
        name: The file within the folder, or where the rows come from.
        part: What it is.
        state: Whether it is what was recorded.
    """

    name: str
    part: Part
    state: State

    @property
    def is_wrong(self) -> bool:
        """Whether it is not what was recorded."""
        return self.state in WRONG


def verify(folder: Path, rows: Rows | None = None) -> list[Compared]:
    """Hold a folder against its record.

    Args:
        folder: An artifact folder, or one of `p2p export`.
        rows: The rows that it was made of, to see whether they are those.

    Raises:
        ModelError: It is neither, or its training did not end.
    """
    is_artifact = (folder / "run.json").is_file()
    if not is_artifact and not (folder / "export.json").is_file():
        raise ModelError(f"{folder}: holds neither run.json (`p2p train`) nor export.json (`p2p export`)")
    record = _record(folder, "run.json" if is_artifact else "export.json")
    found = _of_artifact(folder, record) if is_artifact else _of_export(folder, record)
    return [*found, *([] if rows is None else [_rows(record, rows)])]


def _record(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        if name == "run.json":
            refuse_unfinished(folder, content, allow_unlearned=True)
        else:
            content["scheme"], content["manifest"]
        for file, digest in content.get("files", {}).items():
            if not isinstance(digest, str) or Path(file).is_absolute() or ".." in Path(file).parts:
                raise ValueError(f"files: {told(file)} is no hash of a file of this folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: no record of an artifact or an export ({error})") from None
    return content


def _files(recorded: Mapping[str, str] | None, held: Mapping[str, str], unknown: Part) -> list[Compared]:
    """Each file that was recorded or is there."""
    if recorded is None:
        return [Compared(name, _part(name, unknown), "not recorded") for name in held]
    names = [*recorded, *(name for name in held if name not in recorded)]
    return [Compared(name, _part(name, unknown), _state(recorded.get(name), held.get(name))) for name in names]


def _state(recorded: str | None, held: str | None) -> State:
    if recorded is None:
        return "added"
    if held is None:
        return "missing"
    return "same" if held == recorded else "differs"


def _part(name: str, unknown: Part) -> Part:
    return next((part for pattern, part in PARTS.items() if fnmatch(name, pattern)), unknown)


def _of_artifact(folder: Path, record: Mapping[str, Any]) -> list[Compared]:
    """The files of an artifact. What lies beside the weights may be loaded, so that nothing must be there besides."""
    return _files(record.get("files"), hashes(folder, ARTIFACT), OTHER)


def _of_export(folder: Path, record: Mapping[str, Any]) -> list[Compared]:
    """The files of an export. What else is there may be the trainer's."""
    if "files" in record:
        return _files(record["files"], hashes(folder, record["files"]), EXPORTED)
    found = _seals(folder)  # all that the first version recorded
    return [
        Compared("scheme.json", SCHEME, _state(record["scheme"], found.get("scheme"))),
        Compared("manifest.jsonl", MANIFEST, _state(record["manifest"], found.get("manifest"))),
    ]


def _seals(folder: Path) -> Mapping[str, str]:
    """Empty where the scheme or the manifest cannot be read."""
    try:
        lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
        scheme = folder / "scheme.json"
        return seals(Scheme.load(scheme), [json.loads(line) for line in lines], salt_of(scheme))
    except (OSError, ValueError, SchemeError):
        return {}


def _rows(record: Mapping[str, Any], rows: Rows) -> Compared:
    recorded = ((record.get("data") or {}).get("train") or {}).get("sha256")
    state: State = "not recorded" if recorded is None else _state(recorded, rows.sha256)
    return Compared(rows.source, ROWS, state)
