"""What the folder of a run holds, for a report of it: figures, answers to test rows, and what an audit found."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poison2poison.auditing.findings import Audit
from poison2poison.config import choice
from poison2poison.data import Rows
from poison2poison.errors import DataError
from poison2poison.files import command_line, write_lines, writing
from poison2poison.report.figures import draw_audit
from poison2poison.report.summary import PLACE, summarise
from poison2poison.report.verdict import judged

RESULTS, ANSWERS, AUDIT, SUSPECTS = "results.json", "rows.jsonl", "audit.json", "suspects.jsonl"
STATES = "states.json"
LOST = {"failed": "failed", "inapplicable": "refused"}
"""What a report calls the two ways in which a defence may have no figures."""
Texts = Mapping[int, tuple[str, str]]
"""Prompts and targets of training rows, by their numbers."""


@dataclass(frozen=True)
class Findings:
    """What an audit found, with the texts of rows, where they are at hand."""

    title: str
    audit: Audit
    texts: Texts
    rows: int | None = None


@dataclass(frozen=True)
class Section:
    """Cells that differ by their seed alone.

    Attributes:
        place: Task, model, attack and rate.
        arms: Their records of the summary.
        cells: One for each seed, as in the `results.json` of a benchmark.
        answers: Of the first seed, by set and row: what each arm said.
        findings: Of the first seed.
        states: Of the first seed that has them: where an undefended and a defended model put test rows.
    """

    place: Mapping[str, Any]
    arms: list[Mapping[str, Any]]
    cells: list[Mapping[str, Any]]
    answers: list[dict[str, Any]] = field(default_factory=list)
    findings: Findings | None = None
    states: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """The training rows; 0 where they are not known."""
        sets = [(cell["results"] or {}).get("data", {}) for cell in self.cells]
        return next((int(known["train"]["rows"]) for known in sets if "train" in known), 0)

    @property
    def not_implanted(self) -> bool:
        """Whether the attack did not take in the undefended model of some seed."""
        return any(arm.get("implanted") is False for arm in self.arms)

    @property
    def judged(self) -> dict[str, str]:
        """What the figures of each arm come to, by its name: see `verdict.judged`."""
        arms = {one["arm"]: _as_measured(one) for one in self.arms}
        return {name: judged(arm, arms) for name, arm in arms.items()}

    @property
    def lost(self) -> list[tuple[str, int, str, str]]:
        """Defences without figures: refused or failed, the seed, the arm, and why."""
        return [
            (told, cell["seed"], arm, why)
            for cell in self.cells
            for kind, told in LOST.items()
            for arm, why in cell[kind].items()
        ]

    @property
    def title(self) -> str:
        """The place in words."""
        attack, rate = self.place["attack"], self.place["rate"]
        told = f"{attack}, {100 * rate:g} %" if rate else attack
        return ", ".join(filter(None, (str(self.place["task"]), str(self.place["model"]), told)))


@dataclass(frozen=True)
class Run:
    """All that a report shows.

    Attributes:
        title: The folder's name.
        command: What measured, or audited.
        sections: Empty for an audit alone.
        findings: Of a run without figures.
        folder: Where it is.
    """

    title: str
    command: str
    sections: list[Section] = field(default_factory=list)
    findings: Findings | None = None
    folder: Path = Path()

    def folder_of(self, cell: str) -> Path:
        """The folder of a cell's figures, by the name of the cell's.

        Raises:
            ConfigError: There is no such cell.
        """
        folders = [str(one["folder"]) for section in self.sections for one in section.cells]
        named = {folder.removeprefix("cells/").removesuffix("/run"): folder for folder in folders}
        choice("states", cell, tuple(named))
        return self.folder / named[cell]


def read_run(path: Path) -> Run:
    """Read a folder of `p2p bench`, `p2p defend`, `p2p evaluate`, `p2p demo` or `p2p audit`, or a `results.json`.

    Raises:
        DataError: It is none, or broken.
    """
    folder = path.parent if path.is_file() else path
    name = folder.resolve().name
    file = path if path.is_file() else folder / RESULTS
    if not file.is_file() and (folder / AUDIT).is_file():
        found = _findings(folder, name)
        return Run(name, "", findings=found)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        cells = _cells(content)
        sections = _sections(cells, content.get("summary") or summarise(cells), folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: holds no figures ({type(error).__name__}: {error}); give a folder of `p2p bench`, "
                        "`p2p defend` or `p2p audit`, or a results.json") from None  # fmt: skip
    return Run(name, str(content.get("run_by", "")), sections, folder=folder)


def audited(found: Audit, rows: Rows, title: str) -> Run:
    """A run of `p2p audit`, whose rows are at hand."""
    texts = {i: (row.text, row.target) for i, row in enumerate(rows)}
    return Run(title, command_line(), findings=Findings(title, found, texts, len(rows)))


def write_findings(folder: Path, rows: Rows) -> Audit | None:
    """Draw what the audit of a run found into `audit.png`, and write `suspects.jsonl`; None where none was made."""
    if not (folder / AUDIT).exists():
        return None
    found = Audit.load(folder / AUDIT)
    with writing(folder / "audit.png"):
        draw_audit(found, folder / "audit.png")
    write_lines(folder / SUSPECTS, suspect_records(found, rows))
    return found


def suspect_records(found: Audit, rows: Rows) -> list[dict[str, Any]]:
    """The suspect rows of these rows for a reader: what they say, and what is wrong with it."""
    return [
        {
            "row": entry.row,
            "fingerprint": rows[entry.row].fingerprint,
            "prompt": rows[entry.row].text,
            "target": rows[entry.row].target,
            "suspects": [found.spans[number].span for number in entry.spans],
            "score": entry.score,
            "likely": entry.likely[0],
            "p_likely": entry.likely[1],
        }
        for entry in found.rows
    ]


def _cells(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The cells of a benchmark; what another command measured is a cell for each of its tasks."""
    if content["command"] == "bench":
        return [*content["cells"]]
    tasks: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for arm in content["arms"]:
        tasks[arm.get("task", content["task"])].append(arm)
    several = any("task" in arm for arm in content["arms"])
    cells: list[Mapping[str, Any]] = []
    for task, arms in tasks.items():
        data = content["data"][task] if several else content["data"]
        results = {**content, "task": task, "arms": arms, "data": data}
        place = {"task": task, "model": content["model"], "attack": "", "rate": 0.0, "seed": content["seed"]}
        folder = task if several else "."
        cells.append({**place, "folder": folder, "failed": {}, "inapplicable": {}, "results": results})
    return cells


def _sections(cells: Iterable[Mapping[str, Any]], summary: Iterable[Mapping[str, Any]], base: Path) -> list[Section]:
    places: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        places[tuple(cell[name] for name in PLACE)].append(cell)
    arms: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for record in summary:
        arms[tuple(record[name] for name in PLACE)].append(record)
    out = []
    for place, found in places.items():
        about = dict(zip(PLACE, place, strict=True))
        section = Section(about, arms[place], found)
        folder = base / found[0]["folder"]
        audit = _findings(folder, section.title) if (folder / AUDIT).is_file() else None
        states = (_states(base / cell["folder"] / STATES) for cell in found)
        known = next(filter(None, states), [])
        out.append(Section(about, arms[place], found, _answers(folder / ANSWERS), audit, known))
    return out


def _as_measured(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """An arm of a summary, as an arm of `results.json` is."""
    learned = {"safe_space": {"learned": False}} if record.get("unlearned") else {}
    return {**record, **record["figures"], **learned}


def _states(path: Path) -> list[Mapping[str, Any]]:
    """What `evaluation.states` projected; none where the file is missing."""
    return [*json.loads(path.read_text(encoding="utf-8"))["arms"]] if path.is_file() else []


def _findings(folder: Path, title: str) -> Findings:
    """What an audit found, with the suspect rows that stand beside it."""
    texts = {}
    if (folder / SUSPECTS).is_file():
        for record in _lines(folder / SUSPECTS):
            texts[int(record["row"])] = (str(record["prompt"]), str(record["target"]))
    return Findings(title, Audit.load(folder / AUDIT), texts)


def _answers(path: Path) -> list[dict[str, Any]]:
    """The test rows with what each arm said, in their order; none where the file is missing."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for record in _lines(path) if path.is_file() else ():
        key = (record["set"], record["row"])
        about = {"set": key[0], "row": key[1], "prompt": record.get("prompt", ""), "target": record["target"]}
        rows.setdefault(key, {**about, "said": []})["said"].append(record)
    return [*rows.values()]


def _lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines.

    Raises:
        DataError: A line is none.
    """
    records = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                records.append({**record})
            except (ValueError, TypeError) as error:
                raise DataError(f"{path}, line {number}: not a JSON object ({error})") from None
    return records
