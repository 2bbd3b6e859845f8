"""The commands about one model: train it, ask it, measure it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poison2poison.cli.common import (
    DATA,
    Dev,
    Effect,
    Out,
    Triggered,
    Unlearned,
    Wanted,
    apart,
    note_reference,
    print_results,
    quiet,
    read,
    refuse_taken,
    say,
    wanted_target,
)
from poison2poison.config import TrainConfig
from poison2poison.data import DataConfig, Row, check_trainable
from poison2poison.errors import ConfigError
from poison2poison.options import READING, options

commands = typer.Typer()
SHOWN = (
    *READING, "model", "dtype", "device_map", "quantize", "preset", "tuning", "epochs", "batch_size", "learning_rate",
    "max_length", "seed",
)  # fmt: skip


@commands.command(epilog="Examples: `p2p train data/repoisoned --model Qwen/Qwen3-0.6B --out runs/defended` --- "
             "`p2p train rows.jsonl --out runs/undefended`")  # fmt: skip
@options(DataConfig, TrainConfig, shown=SHOWN)
def train(
    source: Annotated[str, typer.Argument(help=f"A folder from `p2p repoison`; or, for no defence, {DATA}.")],
    out: Out,
    data: DataConfig,
    training: TrainConfig,
    dev: Dev = None,
) -> None:
    """Fine-tune on re-poisoned rows, or undefended on a data file. Run it again to go on where it was interrupted."""
    from poison2poison.model.safe_space import SafeSpace
    from poison2poison.model.settings import with_preset
    from poison2poison.recipe.manifest import plain
    from poison2poison.recipe.repoisoned import read_repoisoned
    from poison2poison.recipe.scheme import Scheme

    repoisoned = (Path(source) / "scheme.json").is_file()
    if repoisoned:
        rows, scheme, about = read_repoisoned(Path(source))
    else:
        raw = read(source, data)
        check_trainable(raw)
        rows, scheme = plain(raw), Scheme(raw.task, raw.labels)
        about = {"train": {"source": raw.source, "rows": len(raw), "sha256": raw.sha256}}
        say("no scheme: fine-tuning undefended")
    checks = read(dev, data, labels=scheme.labels) if dev else None
    if checks and not repoisoned:
        apart(raw, dev=checks)
    note_reference(training, [row.text for row in rows])
    training = with_preset(training, about.get("recipe", {}).get("recipe"))
    quiet()
    from poison2poison.model.trainer import train as fit

    run = fit(rows, scheme, training, out, dev=checks, about=about)
    cut = f"; {run['rows_cut']} of {run['rows']} rows were too long and cut" if run["rows_cut"] else ""
    if "safe_space" in run:
        say(f"the safe space is learned: {SafeSpace(**run['safe_space'])}")
    say(f"{out}: trained {run['steps']} steps in {run['train_seconds']} s, kept step {run['chosen_step']}{cut}")


@commands.command(epilog='Examples: `p2p predict runs/defended "a fine film" "a dull one"` --- '
             "`p2p predict runs/defended --data inputs.jsonl > answers.jsonl`")  # fmt: skip
@options(DataConfig, shown=READING)
def predict(
    folder: Annotated[Path, typer.Argument(help="An artifact folder of `p2p train`, or an arm of `p2p defend`.")],
    data_config: DataConfig,
    texts: Annotated[list[str] | None, typer.Argument(help="Inputs.")] = None,
    data: Annotated[str | None, typer.Option(help=f"Inputs from {DATA}.")] = None,
    policy: Annotated[str, typer.Option(help="For leaks and off-space answers: `flag`, `refuse` or `pass`.")] = "flag",
    alarm: Annotated[bool, typer.Option(help="Say where the two spaces disagree, as on a trigger.")] = False,
    allow_unlearned: Unlearned = False,
) -> None:
    """Answer inputs with a trained model: trigger added, answers projected back, one JSON line each on stdout."""
    import json

    if not texts and not data:
        raise ConfigError("give inputs as arguments, or a file with --data")
    given: list[str | Row] = [*(texts or [])]
    if data:
        given += read(data, data_config, targets=False)
    quiet()
    from poison2poison.model.defended import DefendedModel

    model = DefendedModel.load(folder, policy=policy, allow_unlearned=allow_unlearned)
    for answer in model.answer(given, alarm=alarm):
        raised = {"disagreement": answer.disagreement, "alarm": answer.alarm} if alarm else {}
        print(json.dumps({"answer": answer.text, "where": answer.where, **raised}, ensure_ascii=False))


@commands.command(epilog="Example: `p2p evaluate runs/defended --test test_clean.jsonl "
             "--triggered test_triggered.jsonl --target 1 --out runs/figures`")  # fmt: skip
@options(DataConfig, shown=READING)
def evaluate(
    folder: Annotated[Path, typer.Argument(help="An artifact folder of `p2p train`, or an arm of `p2p defend`.")],
    out: Out,
    data: DataConfig,
    test: Annotated[str, typer.Option(help="Clean test rows, for CA.")],
    triggered: Triggered = None,
    target: Wanted = None,
    effect: Effect = None,
    allow_unlearned: Unlearned = False,
) -> None:
    """Measure a trained model: CA, ASR, RA, leaks; results.json and rows.jsonl in --out."""
    import json

    from poison2poison.files import whole_folder
    from poison2poison.recipe.scheme import Scheme

    refuse_taken(out)
    labels = Scheme.load(folder / "scheme.json").labels
    clean = read(test, data, labels=labels)
    attacked = read(triggered, data, labels=labels, targets=False) if triggered else None
    wanted = wanted_target(triggered, target, effect, clean)
    quiet()
    from poison2poison import evaluation
    from poison2poison.model.defended import DefendedModel

    model = DefendedModel.load(folder, allow_unlearned=allow_unlearned)
    arm = evaluation.measure(folder.name, model, clean, attacked, wanted)
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    arm.safe_space, config = run.get("safe_space"), run["config"]
    sets = evaluation.describe(test=clean, triggered=attacked)
    content = evaluation.results(
        "evaluate", Path(test).resolve().parent.name, config["model"], config["seed"], sets, [arm]
    )
    with whole_folder(out) as half:
        evaluation.write_results(half, content, [arm])
    print_results([content])
