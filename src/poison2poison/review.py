"""Findings for people to read and label, in a notebook or in Argilla; and their answers, which the recipe heeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poison2poison.auditing.findings import Audit
from poison2poison.data import Rows
from poison2poison.errors import DataError
from poison2poison.recipe.reviewed import Answer, read_answers, reviewed, write_answers
from poison2poison.report.run import suspect_records

if TYPE_CHECKING:
    import datasets
    import pandas

__all__ = [
    "Answer",
    "argilla_answers",
    "argilla_records",
    "as_dataset",
    "figures",
    "read_answers",
    "reviewed",
    "spans",
    "suspects",
    "write_answers",
]
PLANTED, HARMLESS = "planted", "harmless"
"""What a person may say of a row: the labels of the question `verdict`."""
COLUMNS = ("row", "fingerprint", "prompt", "target", "suspects", "score", "likely", "p_likely")
"""Of suspect rows, as in `suspects.jsonl`."""


def spans(audit: Audit) -> pandas.DataFrame:
    """The suspects and the weak findings as a table, a line each; `level` tells which it is."""
    import pandas

    levels = {"suspect": audit.spans, "weak": audit.weak}
    lines = [{"level": level, **asdict(span)} for level, held in levels.items() for span in held]
    names = ("level", "span", "kind", "target", "rows", "purity", "score", "evidence")
    return pandas.DataFrame(lines, columns=[*names])


def suspects(audit: Audit, rows: Rows) -> pandas.DataFrame:
    """The suspect rows as a table, a line each.

    Args:
        audit: Of these rows.
        rows: The rows.

    Raises:
        DataError: The audit is of other rows.
    """
    import pandas

    return pandas.DataFrame(_records(audit, rows), columns=[*COLUMNS])


def _records(audit: Audit, rows: Rows) -> list[dict[str, Any]]:
    """The suspect rows. In other rows, or these in another order, the audit's numbers would name innocent ones."""
    if audit.sha256 != rows.sha256:
        raise DataError(f"the audit is of {audit.source or 'other rows'} as it was, and {rows.source} holds other rows")
    return suspect_records(audit, rows)


def as_dataset(audit: Audit, rows: Rows) -> datasets.Dataset:
    """The suspect rows as a Hugging Face dataset, a row each; raises as `suspects` does."""
    import datasets

    found = _records(audit, rows)
    text, texts = datasets.Value("string"), datasets.List(datasets.Value("string"))
    number, share = datasets.Value("int64"), datasets.Value("float64")
    kinds = dict(zip(COLUMNS, (number, text, text, text, texts, share, text, share), strict=True))
    columns = {name: [record[name] for record in found] for name in COLUMNS}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def figures(results: Path | str) -> pandas.DataFrame:
    """The figures of a `results.json` as a table: arm, figure, value, n, low, high.

    Raises:
        DataError: It cannot be read, or holds no figures of one run.
    """
    import pandas

    try:
        arms = json.loads(Path(results).read_text(encoding="utf-8"))["arms"]
        lines = [line for arm in arms for line in _figures(arm)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{results}: holds no figures of one run ({error})") from None
    return pandas.DataFrame(lines, columns=["arm", "figure", "value", "n", "low", "high"])


def _figures(arm: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, figure in {**arm, **arm.get("utility", {})}.items():
        if isinstance(figure, dict) and "value" in figure:
            yield {"arm": arm["name"], "figure": name, **figure}


def argilla_records(audit: Audit, rows: Rows) -> list[dict[str, Any]]:
    """The suspect rows as Argilla 2 has records, for `argilla.Record.from_dict`; copies of a row are one record.

    Its dataset needs the text fields `prompt`, `target` and `suspects`, and the label question `verdict` with `planted`
    and `harmless`; for rows with labels also the label question `label`, with these.

    Args:
        audit: Of these rows.
        rows: The rows.

    Raises:
        DataError: The audit is of other rows.
    """
    found = {record["fingerprint"]: record for record in _records(audit, rows)}
    return [_argilla(record, bool(rows.labels)) for record in found.values()]


def _argilla(record: Mapping[str, Any], labelled: bool) -> dict[str, Any]:
    suggested = {"verdict": {"value": PLANTED, "score": record["score"], "agent": "p2p audit"}}
    if labelled:
        suggested["label"] = {"value": record["likely"], "score": record["p_likely"], "agent": "p2p audit"}
    named = ", ".join(map(repr, record["suspects"])) or "the answer alone"
    return {
        "id": record["fingerprint"],
        "fields": {"prompt": record["prompt"], "target": record["target"], "suspects": named},
        "metadata": {"row": record["row"]},
        "suggestions": suggested,
        "responses": {},
    }


def argilla_answers(records: Iterable[Mapping[str, Any]]) -> list[Answer]:
    """What people said of the records of an Argilla dataset, where all who said something of one agree.

    Args:
        records: Of `dataset.records.to_list()`.

    Raises:
        DataError: A record is no such record, or has an answer that was not asked for.
    """
    answers = []
    for record in records:
        try:
            said = {name: [one["value"] for one in given] for name, given in (record["responses"] or {}).items()}
            verdict, label = _agreed(said.get("verdict", ())), _agreed(said.get("label", ()))
            if verdict not in (None, PLANTED, HARMLESS):
                raise ValueError(f"verdict {verdict!r} is not {PLANTED} or {HARMLESS}")
            if verdict:
                answers.append(Answer(record["id"], verdict == PLANTED, label))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"record {record.get('id')}: cannot be used ({error})") from None
    return answers


def _agreed(values: Sequence[Any]) -> Any:
    """What all say; None where they differ, or nobody says anything."""
    return values[0] if values and all(value == values[0] for value in values) else None
