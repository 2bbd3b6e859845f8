"""What the defences of one run share: the rows, and what is worked out from them once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from poison2poison.auditing import audit as run_audit
from poison2poison.auditing.findings import Audit
from poison2poison.auditing.statistics import Embed
from poison2poison.config import AuditConfig, ModelConfig, TrainConfig
from poison2poison.data import Rows
from poison2poison.defences.context import FilterContext
from poison2poison.errors import InapplicableError, OutputError
from poison2poison.files import write_json

AUDIT = "audit"
"""The name of what the audit found."""


class Shared:
    """It holds no truth; each part is worked out when it is first asked for.

    Attributes:
        rows: The untrusted rows.
        training: How all models of the run are fine-tuned, with nothing left open; its seed is that of all draws.
        out: The folder of the run.
        dev: Clean rows; None where there are none. A defence that uses them must say so in its needs.
    """

    def __init__(
        self,
        rows: Rows,
        training: TrainConfig,
        out: Path,
        audit: AuditConfig | None = None,
        dev: Rows | None = None,
    ) -> None:
        self.rows, self.training, self.out, self.dev = rows, training, out, dev
        self._audit = audit or AuditConfig()

    @property
    def trusted(self) -> Rows:
        """The dev rows, for a defence that needs trusted ones.

        Raises:
            InapplicableError: There are none.
        """
        if self.dev is None:
            raise InapplicableError("dev: there are no trusted rows; give --dev, or leave out what needs them")
        return self.dev

    def free(self) -> None:
        """Give back the models that read the rows."""
        for part in ("context", "_embed"):
            vars(self).pop(part, None)

    @cached_property
    def audit(self) -> Audit:
        """What the audit finds, by the base model that will be fine-tuned, or by another where one is named.

        Raises:
            OutputError: `audit.json` is of other rows or options.
        """
        from poison2poison.model.embeddings import embedder

        seed = self.training.seed

        def made() -> dict[str, Any]:
            other = self._audit.audit_model
            return {**run_audit(self.rows, embedder(other) if other else self._embed, self._audit, seed).as_dict()}

        self.kept(AUDIT, asdict(self._audit), made)
        return Audit.load(self.out / f"{AUDIT}.json")

    @cached_property
    def context(self) -> FilterContext:
        """What row filters ask."""
        causal = self.training if self.training.kind == "causal" else None
        return FilterContext(self.rows, self._embed, causal, self.training.seed)

    def kept(self, name: str, options: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` gives; or what it gave to an interrupted run, which stands in NAME.json.

        Raises:
            OutputError: The file is of other rows, options, model or seed.
        """
        path = self.out / f"{name}.json"
        model = {field.name: getattr(self.training, field.name) for field in fields(ModelConfig)}
        made = {"sha256": self.rows.sha256, "made_with": {**options, **model, "seed": self.training.seed}}
        if not path.exists():
            content = make()
            write_json(path, content | made)
            return content
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OutputError(f"{path}: not JSON ({error}); give another --out, or delete it") from None
        if not isinstance(content, dict) or not content.items() >= made.items():
            raise OutputError(f"{path}: is of other rows or options; give another --out, or delete it")
        return content

    @cached_property
    def _embed(self) -> Embed:
        from poison2poison.model.embeddings import embedder

        return embedder(self.training)
