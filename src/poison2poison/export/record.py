"""`export.json`, by which a model that another trainer made is held against the rows that it was trained on.

schema, trainer, versions, data, rows       what was exported, by what, from where
scheme, manifest                            HMACs under the salt in scheme.json
model, revision, kind, template             the base model; absent where the rows went out as texts
prompting, rows_cut                         how rows became tokens
files                                       sha-256 of all that was written
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from poison2poison.errors import DataError, SchemeError
from poison2poison.files import fingerprint
from poison2poison.recipe.scheme import Scheme, salt_of

SCHEMA = 2
READ = (1, SCHEMA)
"""Versions that are read: the first has no hashes of the files."""


@dataclass(frozen=True)
class Exported:
    """What `p2p export` left in a folder, but for the rows.

    Attributes:
        record: The content of export.json.
        scheme: The scheme.
        salt: The key of the HMACs.
        entries: The content of manifest.jsonl.
    """

    record: dict[str, Any]
    scheme: Scheme
    salt: str
    entries: list[dict[str, Any]]


def seals(scheme: Scheme, entries: Sequence[dict[str, Any]], salt: str) -> dict[str, str]:
    """By which a scheme and a manifest are known again; without the salt they tell nothing of the trigger."""
    return {"scheme": fingerprint(asdict(scheme), salt), "manifest": fingerprint(entries, salt)}


def read_export(scheme_file: Path, manifest_file: Path) -> Exported:
    """Read an export's files, with the export.json beside the manifest, and see that they belong together.

    Raises:
        DataError: There are none, or the rows went out as texts.
        SchemeError: They do not, or the scheme cannot be read.
    """
    path = manifest_file.with_name("export.json")
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")))
        lines = manifest_file.read_text(encoding="utf-8").rstrip("\n").split("\n")  # not those that Unicode knows
        entries = [json.loads(line) for line in lines]
        if record["schema"] not in READ:
            raise ValueError(f"schema {record['schema']} is newer than {SCHEMA}, which this version reads")
        if "model" not in record:
            raise ValueError(f"rows for {record['trainer']} went out as texts, and what is made of them stays there")
        wanted = {name: record[name] for name in ("scheme", "manifest")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not an export of `p2p export` with its manifest ({error})") from None
    scheme, salt = Scheme.load(scheme_file), _salt(scheme_file, path)
    found = seals(scheme, entries, salt)
    if found["scheme"] != wanted["scheme"]:
        raise _other(scheme_file, path)
    if found["manifest"] != wanted["manifest"]:
        raise SchemeError(f"{manifest_file}: was changed since the rows were exported")
    return Exported(record, scheme, salt, entries)


def _salt(scheme_file: Path, record: Path) -> str:
    try:
        return salt_of(scheme_file)
    except SchemeError:  # that of `p2p repoison` has none
        raise _other(scheme_file, record) from None


def _other(scheme_file: Path, record: Path) -> SchemeError:
    own = record.with_name("scheme.json")
    return SchemeError(f"{scheme_file}: not the scheme that the rows were exported with; give {own}")
