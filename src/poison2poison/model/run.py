"""The life of a run, as `run.json` tells it: begun, gone on with, ended; and what is refused for it.

The folder belongs to one run: the same command goes on where it was interrupted, or finds itself done. How it ended is
`status`: done; unlearned (the safe space was not); failed (with the reason); running (or interrupted).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from poison2poison.config import TrainConfig
from poison2poison.data import Rows
from poison2poison.errors import ModelError, OutputError
from poison2poison.files import fingerprint, hashes, keep_from_git, whole_folder, write_json, write_lines
from poison2poison.model import processes
from poison2poison.recipe.manifest import TrainingRow, manifest
from poison2poison.recipe.scheme import Scheme, salt_of
from poison2poison.types import Ended, Identity, RunRecord, Status

SCHEMA = 4
GOES_ON = (3, SCHEMA)
"""Versions of a run that is gone on with: the third has no hashes of its files."""
ARTIFACT = ("model", "scheme.json", "manifest.jsonl")
"""What a run leaves beside its record. The scheme's hash tells nothing of the trigger: a random salt is hashed too."""


@dataclass(frozen=True)
class Run:
    """One run, and its place in its folder.

    Attributes:
        out: The artifact folder.
        identity: By what it is known.
        salt: Key of its fingerprint, without which the record would let anybody try guesses at the trigger.
        before: What the folder holds of it already; None where it is a new one.
    """

    out: Path
    identity: Identity
    salt: str
    before: RunRecord | None

    @classmethod
    def of(cls, rows: Sequence[TrainingRow], scheme: Scheme, config: TrainConfig, out: Path, dev: Rows | None) -> Run:
        """The run of these rows and options, new or begun. Nothing is written yet.

        Raises:
            OutputError: The folder holds another run, or something else.
            SchemeError: The folder's scheme is broken.
        """
        before = read_run(out)
        if before and before["schema"] not in GOES_ON:
            raise OutputError(f"{out}: holds a run of another version, which does not go on here; give another --out")
        salt = salt_of(out / "scheme.json") if before else secrets.token_hex(32)
        same_steps = replace(config, micro_batch=None)  # another one gives the same steps
        content = {
            "config": asdict(same_steps),
            "rows": [asdict(row) for row in rows],
            "scheme": asdict(scheme),
            "dev": dev.sha256 if dev else None,
        }
        found = fingerprint(content, salt)
        if before and before["fingerprint"] != found:
            raise OutputError(f"{out}: holds another run (other rows or options); give another --out, or delete it")
        return cls(out, Identity(schema=SCHEMA, status="running", fingerprint=found), salt, before)

    @property
    def ended(self) -> RunRecord | None:
        """Its record, where it has ended with a model already."""
        before = self.before
        return before if before and before["status"] in ("done", "unlearned") else None

    def begin(self, rows: Sequence[TrainingRow], scheme: Scheme) -> None:
        """Make the folder, which is this run's from here on, unless it is there already.

        Raises:
            OutputError: It cannot be written.
        """
        if not self.before and processes.is_writer():
            with whole_folder(self.out) as folder:
                scheme.save(folder / "scheme.json", salt=self.salt)
                keep_from_git(folder, "scheme.json")
                write_lines(folder / "manifest.jsonl", manifest(rows, scheme))
                write_json(folder / "run.json", self.identity)
        processes.wait()

    def planned_epochs(self, config: TrainConfig) -> int:
        """The epochs of the configuration, or those that a run which goes on had come to."""
        assert config.epochs
        return self.before.get("epochs", config.epochs) if self.before else config.epochs

    def go_on(self, epochs: int) -> None:
        """Note that so many epochs are trained now."""
        self._write({"epochs": epochs})

    def fail(self, error: Exception, epochs: int, config: TrainConfig) -> None:
        """Note that the training went wrong."""
        self._write({"reason": str(error), "epochs": epochs, "config": asdict(config)}, "failed")

    def end(self, found: Ended, status: Status) -> RunRecord:
        """Note what was trained, with the hashes of what is left of it.

        Returns:
            The content of `run.json`.
        """
        files = hashes(self.out, ARTIFACT) if processes.is_writer() else {}
        return self._write({**found, "files": files}, status)

    def _write(self, found: Ended, status: Status = "running") -> RunRecord:
        record = cast(RunRecord, {**self.identity, "status": status, **found})
        if processes.is_writer():
            write_json(self.out / "run.json", record)
        return record


def read_run(out: Path) -> RunRecord | None:
    """The run that a folder holds; None where it holds nothing yet.

    Raises:
        OutputError: It holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        run: RunRecord = json.loads((out / "run.json").read_text(encoding="utf-8"))
        run["schema"], run["fingerprint"], run["status"]
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputError(f"{out}: exists and holds no run of this program; give another --out") from None
    return run


def refuse_unfinished(folder: Path, run: Mapping[str, Any], *, allow_unlearned: bool) -> None:
    """Refuse a run that left no model that may serve.

    Raises:
        ModelError: It was interrupted, it failed, its safe space was not learned, or it is of a newer version.
    """
    status = run["status"]
    if status not in get_args(Status):
        raise ModelError(f"{folder}: its status {status!r} is not known to this version")
    if status == "running":
        raise ModelError(f"{folder}: its training was interrupted; run the same command again to finish it")
    if status == "failed":
        raise ModelError(f"{folder}: its training failed: {run['reason']}")
    if status == "unlearned" and not allow_unlearned:
        raise ModelError(
            f"{folder}: {run['reason']}. To load it all the same, give --allow-unlearned, in Python "
            "allow_unlearned=True"
        )
