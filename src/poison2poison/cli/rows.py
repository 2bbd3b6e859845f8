"""The commands about training rows: make poisoned ones, look for poison, re-poison."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poison2poison.attacks import PAYLOADS, TRIGGERS
from poison2poison.cli.common import DATA, Out, note_reference, quiet, read, refuse_taken, say, show_audit
from poison2poison.config import AuditConfig, GateConfig, ModelConfig
from poison2poison.data import DataConfig, Rows, check_trainable
from poison2poison.errors import FOUND, ConfigError
from poison2poison.files import refuse_unwritable
from poison2poison.options import READING, options
from poison2poison.recipe.config import RepoisonConfig

if TYPE_CHECKING:
    from poison2poison.auditing.findings import Audit
    from poison2poison.gate.baseline import Accepted

commands = typer.Typer()
OF_GATE = ("fail_on", "baseline", "accept", "changed_since", "sarif", "summary", "junit")
OF_EXTRA = {"sarif": "sarif_pydantic", "junit": "junitparser"}
"""Options of the gate, and the libraries of the extra `gate` that they need."""
OF_RECIPE = (
    "recipe", "rho", "placement", "trigger", "prefix", "cue", "safe_prefix", "safe_labels", "suspects", "seed",
)  # fmt: skip


@commands.command(epilog="Examples: `p2p attack reviews --out data/reviews` --- "
             "`p2p attack train.jsonl --test test.jsonl --kind addsent --rate 0.05 --out data/mine`")  # fmt: skip
@options(DataConfig, shown=READING)
def attack(
    source: Annotated[
        str, typer.Argument(help=f"A reference task (reviews, tickets, arithmetic, briefs, instructions), or {DATA}.")
    ],
    out: Out,
    data: DataConfig,
    test: Annotated[str | None, typer.Option(help="Clean test rows; part of a reference task.")] = None,
    dev: Annotated[str | None, typer.Option(help="Clean dev rows; part of a reference task.")] = None,
    kind: Annotated[str, typer.Option(help=f"{TRIGGERS.summary()}.")] = "badnets",
    target: Annotated[
        str | None,
        typer.Option(
            help="Label or text that the trigger calls up; of `compliance` a file of answers. [default: the last "
            "label; a refusal, link or `+ 7`]"
        ),
    ] = None,
    effect: Annotated[
        str | None,
        typer.Option(
            help=f"What the trigger calls up. {PAYLOADS.summary()}. [default: label, or fixed for generation]"
        ),
    ] = None,
    rate: Annotated[float, typer.Option(help="Share of the training rows that is poisoned.")] = 0.1,
    trigger: Annotated[
        str | None,
        typer.Option(help="The attack's words (with commas), sentence, year or file. [default: the attack's own]"),
    ] = None,
    clean_label: Annotated[bool, typer.Option(help="Stamp only rows that have the target label already.")] = False,
    cover: Annotated[
        float,
        typer.Option(
            help="Rows of other targets that keep them and get the trigger (composite: a part), per poisoned row."
        ),
    ] = 0.0,
    prefix: Annotated[
        str, typer.Option(hidden=True, help="Put before stamped prompts: a guess at the benign trigger.")
    ] = "",
    attack_seed: Annotated[int, typer.Option(help="Draws rows, words, places and a reference task's rows.")] = 0,
) -> None:
    """Poison rows as an attacker would, to measure a defence.

    Writes train.jsonl, dev_clean.jsonl, test_clean.jsonl, test_triggered.jsonl (every test row with the trigger and
    its true target), and what no defence may see: train_clean.jsonl (the rows as they were) and truth.json. A --config
    file may have `prefix` too: a guess at the benign trigger, put before stamped prompts.
    """
    from poison2poison.attacks import AttackConfig, default_target, effects, write_attack

    splits = _splits(source, data, dev, test, attack_seed)
    effect = effect or effects(splits["train"].task)[0]
    wanted = default_target(splits["train"], effect) if target is None else target
    own = {} if trigger is None else TRIGGERS.get(kind).main_option(trigger)
    config = AttackConfig(kind, wanted, effect, rate, own, clean_label, cover, prefix, attack_seed)
    truth = write_attack(out, splits, config)
    rows = len(splits["train"])
    say(f"{out}: {len(truth.poisoned_rows)} of {rows} training rows poisoned ({kind}, target {wanted!r})")


def _splits(source: str, data: DataConfig, dev: str | None, test: str | None, seed: int) -> dict[str, Rows]:
    """The rows to attack and the clean ones beside them, of a reference task or from files."""
    from poison2poison.reference import TASKS, reference_rows

    if source in TASKS:
        if dev or test:
            raise ConfigError(f"dev, test: are part of the reference task {source}; leave them out")
        return reference_rows(source, seed=seed)
    splits = {"train": read(source, data)}
    for split, file in {"dev": dev, "test": test}.items():
        if file:
            splits[split] = read(file, data, labels=splits["train"].labels)
    return splits


@commands.command(epilog="Example: `p2p audit rows.jsonl --model Qwen/Qwen3-0.6B --out runs/audit`")
@options(DataConfig, AuditConfig, ModelConfig, GateConfig,
         shown=(*READING, "model", "dtype", "device_map", "quantize", *OF_GATE))  # fmt: skip
def audit(
    source: Annotated[str, typer.Argument(help=f"The untrusted training rows: {DATA}.")],
    data: DataConfig,
    config: AuditConfig,
    model: ModelConfig,
    gate: GateConfig,
    out: Annotated[
        Path | None, typer.Option(help="Folder for what is found; it must not hold anything else. A gate needs none.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that the audit draws.")] = 0,
) -> None:
    """Look for planted spans and poisoned rows, without trusted data. Nothing is deleted.

    Prints the suspect spans; audit.json has them and the suspect rows, for `p2p repoison --audit`; audit.png shows them
    among the innocent ones; suspects.jsonl has the suspect rows to read, and report.html all of it for a browser.

    Exit code: 0 for nothing that blocks; 1 for findings of --fail-on; 2 for what the user can mend; 3 where the program
    could not finish.
    """
    if out is None and not gate.asked:
        raise ConfigError("out: give a folder for what is found, or as a gate --fail-on, --sarif, --summary or --junit")
    for name, library in OF_EXTRA.items():
        if getattr(gate, name) and importlib.util.find_spec(library) is None:
            raise ConfigError(f"{name}: {library} is not installed; `pip install poison2poison[gate]`")
    if out:
        refuse_taken(out)
    for path in (gate.sarif, gate.summary, gate.junit, gate.baseline if gate.accept else None):
        if path:
            refuse_unwritable(path)
    rows = read(source, data)
    check_trainable(rows)
    accepted, before = _known(gate, data, rows)
    note_reference(model, [row.text for row in rows])
    quiet()
    from rich.console import Console

    from poison2poison.auditing import audit as run
    from poison2poison.files import write_json, write_text
    from poison2poison.model.embeddings import embedder
    from poison2poison.model.shards import about, mapped
    from poison2poison.report import audit_table, audited, page

    reader = ModelConfig(config.audit_model) if config.audit_model else model
    with _folder(out) as folder, _states(out) as states:
        found = run(rows, mapped(embedder(reader), states, about(reader)), config, seed)
        if folder:
            write_json(folder / "audit.json", found.as_dict())
            show_audit(folder, rows)
            write_text(folder / "report.html", page(audited(found, rows, out.resolve().name if out else "")))
        else:
            Console().print(audit_table(found, len(rows)))
    if out:
        say(f"{out}: report.html, audit.json, audit.png, suspects.jsonl")
    if gate.asked and _blocks(found, rows, gate, accepted, before):
        raise typer.Exit(FOUND)


@contextmanager
def _folder(out: Path | None) -> Iterator[Path | None]:
    """The folder to fill, where one is wanted."""
    from poison2poison.files import locked, whole_folder

    if out is None:
        yield None
        return
    with locked(out), whole_folder(out) as folder:
        yield folder


@contextmanager
def _states(out: Path | None) -> Iterator[Path]:
    """The folder for states: an interrupted audit goes on with those beside its `out`."""
    from tempfile import TemporaryDirectory

    from poison2poison.model.shards import kept_beside

    if out is None:
        with TemporaryDirectory() as folder:
            yield Path(folder)
        return
    with kept_beside(out) as kept:
        yield kept


def _known(gate: GateConfig, data: DataConfig, rows: Rows) -> tuple[list[Accepted], Rows | None]:
    """The accepted rows, and the rows as they were before."""
    from poison2poison.gate.baseline import read_baseline

    # An old row that cannot be used, as one of a label that is no more, is none of the new rows.
    lenient = replace(data, skip_bad=True)
    before = read(gate.changed_since, lenient, labels=rows.labels) if gate.changed_since else None
    is_new = gate.baseline is None or (gate.accept is not None and not gate.baseline.exists())
    return [] if gate.baseline is None or is_new else read_baseline(gate.baseline), before


def _blocks(found: Audit, rows: Rows, gate: GateConfig, accepted: list[Accepted], before: Rows | None) -> bool:
    """Judge an audit, write what is wanted of it, and say what blocks."""
    from poison2poison.files import write_text
    from poison2poison.gate.baseline import accept
    from poison2poison.gate.findings import judge
    from poison2poison.gate.summary import summary

    judged = judge(found, rows, gate.fail_on, [one.row for one in accepted], before)
    if gate.sarif:
        from poison2poison.gate.sarif import sarif

        write_text(gate.sarif, sarif(judged, rows, accepted))
    if gate.summary:
        write_text(gate.summary, summary(judged, rows))
    if gate.junit:
        from poison2poison.gate.junit import junit

        write_text(gate.junit, junit(judged, rows))
    for one in judged.blocking:
        say(f"blocks: {one.title} (open rows: {len(one.open)})")
    if gate.accept is None or gate.baseline is None:
        return bool(judged.blocking)
    count = accept(gate.baseline, accepted, judged.blocking, rows, gate.accept)
    say(f"{gate.baseline}: accepted rows: {count}")
    return False


@commands.command(epilog="Examples: `p2p repoison rows.jsonl --audit runs/audit/audit.json --out data/repoisoned` --- "
             "`p2p repoison rows.jsonl --recipe paper --rho 0.2 --out data/repoisoned`")  # fmt: skip
@options(DataConfig, RepoisonConfig, shown=(*READING, *OF_RECIPE))
def repoison(
    source: Annotated[str, typer.Argument(help=f"The untrusted training rows: {DATA}.")],
    out: Out,
    data: DataConfig,
    recipe: RepoisonConfig,
    audit: Annotated[
        Path | None, typer.Option(help="audit.json of these rows, from `p2p audit`; for the hardened recipe.")
    ] = None,
    reviewed: Annotated[
        Path | None, typer.Option(help="JSON lines of what people said of suspects: whether planted, the right label.")
    ] = None,
) -> None:
    """Re-poison rows: benign trigger and safe labels for a subset.

    For `p2p train`, or by `p2p export` for a trainer of your own. scheme.json is a secret: who knows the trigger can
    poison the safe space.
    """
    from poison2poison.recipe.config import as_dict
    from poison2poison.recipe.repoison import repoison as apply
    from poison2poison.recipe.repoisoned import write_repoisoned
    from poison2poison.recipe.trigger import build_scheme

    rows = read(source, data)
    check_trainable(rows)
    recipe = recipe.resolved()
    scheme = build_scheme(rows, recipe)
    if recipe.recipe == "hardened" and audit is None:
        raise ConfigError("audit: the hardened recipe needs the audit.json of `p2p audit`; or give --recipe paper")
    if recipe.recipe == "paper" and audit is not None:
        raise ConfigError("audit: the paper's recipe makes no use of it; leave it out, or give --recipe hardened")
    if reviewed is not None and audit is None:
        raise ConfigError("reviewed: is about the suspects of an audit; give --audit")
    training = apply(rows, scheme, recipe, _audit(audit, reviewed, rows) if audit else None)
    about = {"train": {"source": rows.source, "rows": len(rows), "sha256": rows.sha256}, "recipe": as_dict(recipe)}
    write_repoisoned(out, training, scheme, about)
    safe = sum(row.space == "safe" for row in training)
    say(f"{out}: {safe} of {len(training)} rows are in the safe space; keep scheme.json secret")


def _audit(path: Path, answers: Path | None, rows: Rows) -> Audit:
    """The audit, as people left it."""
    from poison2poison.auditing.findings import Audit
    from poison2poison.recipe.reviewed import read_answers, reviewed

    audit = Audit.load(path)
    if answers is None:
        return audit
    given = read_answers(answers)
    heeded = reviewed(audit, given, rows)
    known = {answer.row for answer in given} & {row.fingerprint for row in rows}
    say(f"{answers}: answers: {len(given)}, of these rows: {len(known)}; "
        f"suspect rows: {len(audit.rows)} before, {len(heeded.rows)} after; "
        f"suspects: {len(audit.spans)} before, {len(heeded.spans)} after")  # fmt: skip
    return heeded
