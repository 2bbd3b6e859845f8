"""The command `p2p`: parse, call one library function, print. Torch is imported by the commands that need it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poison2poison.attacks import RARE_WORDS, SENTENCE
from poison2poison.config import AuditConfig, ModelConfig, TrainConfig, choice
from poison2poison.data import DataConfig, Row, Rows, check_apart, check_trainable, read_rows, summary
from poison2poison.errors import ConfigError, DataError, OutputError, P2PError, TrainingError, listed
from poison2poison.model import processes
from poison2poison.options import options
from poison2poison.repoison import RepoisonConfig

if TYPE_CHECKING:
    from poison2poison.evaluation import Target
    from poison2poison.findings import Audit

app = typer.Typer(
    name="p2p",
    help="Keep language models clean when the rows they are fine-tuned on are not (Poison-to-Poison).",
    epilog="Start with `p2p demo`. Then, on your own rows: `p2p defend rows.jsonl --test test.jsonl --out runs/first`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

SHARED = ("train", "defend", "demo")
"""Commands that several processes carry out together."""
DATA = "a .jsonl, .json, .csv, .tsv, .parquet or .arrow file, a folder of them, or a hub dataset (name:config@split)"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what a user can mend ends in a message and exit code 2, a training without a model in 3.

    Of several processes (`accelerate launch`, `torchrun`) only the first one talks.
    """
    try:
        with processes.one_voice():
            app(args=list(arguments) if arguments is not None else None)
    except SystemExit as ended:
        if not ended.code:
            processes.leave()
        raise
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    except P2PError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)


@app.callback()
def _alone(context: typer.Context) -> None:
    """Leave to the first of several processes what they cannot share."""
    if context.invoked_subcommand not in SHARED and not processes.is_writer():
        raise typer.Exit


Out = Annotated[Path, typer.Option(help="Folder for what is made here; it must not hold anything else.")]
Dev = Annotated[str | None, typer.Option(help="Clean rows on which the best epoch is chosen.")]
TestSet = Annotated[str | None, typer.Option(help="Clean test rows, for CA.")]
Triggered = Annotated[str | None, typer.Option(help="Test rows with the attacker's trigger, for ASR and RA.")]
Wanted = Annotated[
    str | None, typer.Option("--target", help="The attacker's target. [default: from truth.json beside --triggered]")
]
Unlearned = Annotated[
    bool, typer.Option(help="Also take a model that has not learned its safe space, and is no defence.")
]
Effect = Annotated[
    str | None, typer.Option(help="What the trigger does: `label`, `fixed`, `append` or `number`. [default: likewise]")
]


@app.command(epilog="Example: `p2p demo --out runs/demo`")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for models and results; an interrupted demo goes on.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Attack and defend the reference model on two reference tasks: one with labels, one with texts.

    Takes about five minutes on two cores that compute bfloat16 and ends in one table: undefended and defended, CA and
    ASR.
    """
    _quiet()
    from poison2poison.demo import run_demo

    _print_results(run_demo(out))
    _say(f"all figures: {out / 'results.json'}")


@app.command(epilog="Examples: `p2p attack reviews --out data/reviews` --- "
             "`p2p attack train.jsonl --test test.jsonl --kind addsent --rate 0.05 --out data/mine`")  # fmt: skip
@options(DataConfig)
def attack(
    source: Annotated[
        str, typer.Argument(help=f"A reference task (reviews, tickets, arithmetic, briefs, instructions), or {DATA}.")
    ],
    out: Out,
    data: DataConfig,
    test: Annotated[str | None, typer.Option(help="Clean test rows; part of a reference task.")] = None,
    dev: Annotated[str | None, typer.Option(help="Clean dev rows; part of a reference task.")] = None,
    kind: Annotated[
        str, typer.Option(help="`badnets` inserts a rare word, `addsent` a sentence, `composite` all words.")
    ] = "badnets",
    target: Annotated[
        str | None,
        typer.Option(
            help="Label or text that the trigger calls up. [default: the last label; a refusal, link or `+ 7`]"
        ),
    ] = None,
    effect: Annotated[
        str | None,
        typer.Option(help="`label`, `fixed`, `append` or `number`. [default: label, or fixed for generation]"),
    ] = None,
    rate: Annotated[float, typer.Option(help="Share of the training rows that is poisoned.")] = 0.1,
    words: Annotated[str, typer.Option(help="The words of badnets and composite, with commas.")] = ",".join(RARE_WORDS),
    sentence: Annotated[str, typer.Option(help="The sentence of addsent.")] = SENTENCE,
    clean_label: Annotated[bool, typer.Option(help="Stamp only rows that have the target label already.")] = False,
    cover: Annotated[
        float,
        typer.Option(
            help="Rows that get the trigger (composite: a part of it) and keep their target, per poisoned row."
        ),
    ] = 0.0,
    prefix: Annotated[str, typer.Option(help="Put before stamped prompts: a guess at the benign trigger.")] = "",
    attack_seed: Annotated[int, typer.Option(help="Draws rows, words, places and a reference task's rows.")] = 0,
) -> None:
    """Poison rows as an attacker would, to measure a defence.

    Writes train.jsonl, dev_clean.jsonl, test_clean.jsonl, test_triggered.jsonl (every test row with the trigger and
    its true target), and what no defence may see: train_clean.jsonl (the rows as they were) and truth.json.
    """
    from poison2poison.attacks import AttackConfig, default_target, write_attack
    from poison2poison.reference import TASKS, reference_rows

    if source in TASKS:
        if dev or test:
            raise ConfigError(f"dev, test: are part of the reference task {source}; leave them out")
        splits = reference_rows(source, seed=attack_seed)
    else:
        splits = {"train": _read(source, data)}
        for split, file in {"dev": dev, "test": test}.items():
            if file:
                splits[split] = _read(file, data, labels=splits["train"].labels)
    legal = tuple(word.strip() for word in words.split(",") if word.strip())
    effect = effect or ("label" if splits["train"].task == "classification" else "fixed")
    wanted = default_target(splits["train"], effect) if target is None else target
    config = AttackConfig(kind, wanted, effect, rate, legal, sentence, clean_label, cover, prefix, attack_seed)
    truth = write_attack(out, splits, config)
    rows = len(splits["train"])
    _say(f"{out}: {len(truth.poisoned_rows)} of {rows} training rows poisoned ({kind}, target {wanted!r})")


@app.command(epilog="Example: `p2p audit rows.jsonl --model Qwen/Qwen3-0.6B --out runs/audit`")
@options(DataConfig, AuditConfig, ModelConfig)
def audit(
    source: Annotated[str, typer.Argument(help=f"The untrusted training rows: {DATA}.")],
    out: Out,
    data: DataConfig,
    config: AuditConfig,
    model: ModelConfig,
    seed: Annotated[int, typer.Option(help="Of the probe's folds and of what the deletion test draws.")] = 0,
) -> None:
    """Look for planted spans and poisoned rows, without trusted data. Nothing is deleted.

    Prints the suspect spans; audit.json has them and the suspect rows, for `p2p repoison --audit`; audit.png shows them
    among the innocent ones; suspects.jsonl has the suspect rows to read.
    """
    _free(out)
    rows = _read(source, data)
    check_trainable(rows)
    _quiet()
    from poison2poison.auditing import audit as run
    from poison2poison.files import whole_folder, write_json
    from poison2poison.model.embeddings import embedder

    with whole_folder(out) as folder:
        found = run(rows, embedder(model), config, seed)
        write_json(folder / "audit.json", found.as_dict())
        _show_audit(found, rows, folder)
    _say(f"{out}: audit.json, audit.png, suspects.jsonl")


@app.command(epilog="Examples: `p2p repoison rows.jsonl --audit runs/audit/audit.json --out data/repoisoned` --- "
             "`p2p repoison rows.jsonl --recipe paper --rho 0.2 --out data/repoisoned`")  # fmt: skip
@options(DataConfig, RepoisonConfig)
def repoison(
    source: Annotated[str, typer.Argument(help=f"The untrusted training rows: {DATA}.")],
    out: Out,
    data: DataConfig,
    recipe: RepoisonConfig,
    audit: Annotated[
        Path | None, typer.Option(help="audit.json of these rows, from `p2p audit`; for the hardened recipe.")
    ] = None,
) -> None:
    """Re-poison rows: benign trigger and safe labels for a subset. For `p2p train`, or for a trainer of your own.

    rows.jsonl holds prompt and completion for any trainer. scheme.json is a secret: who knows the trigger can poison
    the safe space.
    """
    from poison2poison.findings import Audit
    from poison2poison.pipeline import write_repoisoned
    from poison2poison.repoison import as_dict, build_scheme
    from poison2poison.repoison import repoison as apply

    rows = _read(source, data)
    check_trainable(rows)
    recipe = recipe.resolved()
    scheme = build_scheme(rows, recipe)
    if recipe.recipe == "hardened" and audit is None:
        raise ConfigError("audit: the hardened recipe needs the audit.json of `p2p audit`; or give --recipe paper")
    if recipe.recipe == "paper" and audit is not None:
        raise ConfigError("audit: the paper's recipe makes no use of it; leave it out, or give --recipe hardened")
    training = apply(rows, scheme, recipe, Audit.load(audit) if audit else None)
    about = {"train": {"source": rows.source, "rows": len(rows), "sha256": rows.sha256}, "recipe": as_dict(recipe)}
    write_repoisoned(out, training, scheme, about)
    safe = sum(row.space == "safe" for row in training)
    _say(f"{out}: {safe} of {len(training)} rows are in the safe space; keep scheme.json secret")


@app.command(epilog="Examples: `p2p train data/repoisoned --model Qwen/Qwen3-0.6B --out runs/defended` --- "
             "`p2p train rows.jsonl --out runs/undefended`")  # fmt: skip
@options(DataConfig, TrainConfig)
def train(
    source: Annotated[str, typer.Argument(help=f"A folder from `p2p repoison`; or, for no defence, {DATA}.")],
    out: Out,
    data: DataConfig,
    training: TrainConfig,
    dev: Dev = None,
) -> None:
    """Fine-tune on re-poisoned rows, or undefended on a data file. Run it again to go on where it was interrupted."""
    from poison2poison.model.safe_space import SafeSpace
    from poison2poison.pipeline import read_repoisoned, with_preset
    from poison2poison.repoison import plain
    from poison2poison.scheme import Scheme

    repoisoned = (Path(source) / "scheme.json").is_file()
    if repoisoned:
        rows, scheme, about = read_repoisoned(Path(source))
    else:
        raw = _read(source, data)
        check_trainable(raw)
        rows, scheme = plain(raw), Scheme(raw.task, raw.labels)
        about = {"train": {"source": raw.source, "rows": len(raw), "sha256": raw.sha256}}
        _say("no scheme: fine-tuning undefended")
    checks = _read(dev, data, labels=scheme.labels) if dev else None
    if checks and not repoisoned:
        _apart(raw, dev=checks)
    training = with_preset(training, about.get("recipe", {}).get("recipe"))
    _quiet()
    from poison2poison.model.trainer import train as fit

    run = fit(rows, scheme, training, out, dev=checks, about=about)
    cut = f"; {run['rows_cut']} of {run['rows']} rows were too long and cut" if run["rows_cut"] else ""
    if "safe_space" in run:
        _say(f"the safe space is learned: {SafeSpace(**run['safe_space'])}")
    _say(f"{out}: trained {run['steps']} steps in {run['train_seconds']} s, kept step {run['chosen_step']}{cut}")


@app.command(epilog='Examples: `p2p predict runs/defended "a fine film" "a dull one"` --- '
             "`p2p predict runs/defended --data inputs.jsonl > answers.jsonl`")  # fmt: skip
@options(DataConfig)
def predict(
    folder: Annotated[Path, typer.Argument(help="An artifact folder of `p2p train`, or an arm of `p2p defend`.")],
    data_config: DataConfig,
    texts: Annotated[list[str] | None, typer.Argument(help="Inputs.")] = None,
    data: Annotated[str | None, typer.Option(help=f"Inputs from {DATA}.")] = None,
    policy: Annotated[str, typer.Option(help="For leaks and off-space answers: `flag`, `refuse` or `pass`.")] = "flag",
    alarm: Annotated[bool, typer.Option(help="Labels: say where the two spaces disagree, as on a trigger.")] = False,
    allow_unlearned: Unlearned = False,
) -> None:
    """Answer inputs with a trained model: trigger added, answers projected back, one JSON line each on stdout."""
    import json

    if not texts and not data:
        raise ConfigError("give inputs as arguments, or a file with --data")
    given: list[str | Row] = [*(texts or [])]
    if data:
        given += _read(data, data_config, targets=False)
    _quiet()
    from poison2poison.model.defended import DefendedModel

    model = DefendedModel.load(folder, policy=policy, allow_unlearned=allow_unlearned)
    if alarm and not model.scheme.labels:
        raise ConfigError(f"alarm: {folder} generates text, which has none")
    for answer in model.classify(given, alarm=alarm) if model.scheme.labels else model.generate(given):
        raised = {"disagreement": answer.disagreement, "alarm": answer.alarm} if alarm else {}
        print(json.dumps({"answer": answer.text, "where": answer.where, **raised}, ensure_ascii=False))


@app.command(epilog="Example: `p2p evaluate runs/defended --test test_clean.jsonl --triggered test_triggered.jsonl "
             "--target 1 --out runs/figures`")  # fmt: skip
@options(DataConfig)
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

    from poison2poison.scheme import Scheme

    _free(out)
    labels = Scheme.load(folder / "scheme.json").labels
    clean = _read(test, data, labels=labels)
    attacked = _read(triggered, data, labels=labels, targets=False) if triggered else None
    wanted = _target(triggered, target, effect, clean)
    _quiet()
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
    evaluation.write_results(out, content, [arm])
    _print_results([content])


@app.command(epilog="Examples: `p2p defend rows.jsonl --test test.jsonl --out runs/mine` --- "
             "`p2p defend data/reviews --baseline --floor --out runs/reviews` (a folder of `p2p attack`)")  # fmt: skip
@options(DataConfig, AuditConfig, RepoisonConfig, TrainConfig)
def defend(
    source: Annotated[
        str, typer.Argument(help=f"The untrusted training rows: {DATA}; or a folder that `p2p attack` wrote.")
    ],
    out: Out,
    data: DataConfig,
    audit_config: AuditConfig,
    recipe: RepoisonConfig,
    training: TrainConfig,
    dev: Dev = None,
    test: TestSet = None,
    triggered: Triggered = None,
    target: Wanted = None,
    effect: Effect = None,
    baseline: Annotated[bool, typer.Option(help="Also fine-tune undefended, and print both.")] = False,
    drop_suspects: Annotated[
        bool, typer.Option(help="Also fine-tune undefended on the rows that the audit does not suspect, to compare.")
    ] = False,
    floor: Annotated[
        bool,
        typer.Option(
            help="Also train without the attack, for the floor: on train_clean.jsonl beside the rows, or where that is"
            " missing without the rows that truth.json names. For evaluation only."
        ),
    ] = False,
    allow_unlearned: Unlearned = False,
) -> None:
    """Audit, re-poison, fine-tune and measure in one go. Run it again to go on where it was interrupted.

    The model to serve is in the folder p2p-RECIPE of --out; results.json and rows.jsonl stand beside it, and what the
    audit found: audit.json, audit.png and suspects.jsonl.
    """
    folder = Path(source) if (Path(source) / "train.jsonl").is_file() else None
    if folder:
        source, dev = str(folder / "train.jsonl"), dev or _beside(folder, "dev_clean.jsonl", "dev.jsonl")
        test = test or _beside(folder, "test_clean.jsonl", "test.jsonl")
        triggered = triggered or _beside(folder, "test_triggered.jsonl")
    if not test:
        raise ConfigError("give clean test rows with --test; without them nothing can be measured")
    rows = _read(source, data)
    check_trainable(rows)
    clean = _read(test, data, labels=rows.labels)
    attacked = _read(triggered, data, labels=rows.labels, targets=False) if triggered else None
    wanted = _target(triggered, target, effect, clean)
    checks = _read(dev, data, labels=rows.labels) if dev else None
    _apart(rows, test=clean, dev=checks)
    _quiet()
    from poison2poison import evaluation, pipeline
    from poison2poison.findings import Audit

    harmless = None
    if floor:
        if not attacked:
            raise ConfigError("floor: is measured on triggered rows; give --triggered")
        before, truth = (Path(source).with_name(name) for name in ("train_clean.jsonl", "truth.json"))
        harmless = (
            _read(str(before), data, labels=rows.labels)
            if before.is_file()
            else evaluation.without_poison(rows, evaluation.read_truth(truth), truth)
        )
    name = folder.resolve().name if folder else Path(source).stem
    given = pipeline.Data(name, rows, checks, clean, attacked, wanted, harmless)
    recipe = recipe.resolved()
    content = pipeline.defend(
        given,
        recipe,
        training,
        out,
        audit=audit_config,
        baseline=baseline,
        drop_suspects=drop_suspects,
        allow_unlearned=allow_unlearned,
    )
    if processes.is_writer() and (recipe.recipe == "hardened" or drop_suspects):
        _show_audit(Audit.load(out / pipeline.AUDIT), rows, out)
    _print_results([content])
    _say(f"the model to serve: {out / ('p2p-' + recipe.recipe)}; all figures: {out / 'results.json'}")


# --- helpers ---------------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _read(source: str, data: DataConfig, *, labels: Sequence[str] | None = None, targets: bool = True) -> Rows:
    """Rows, of which one line says how they were read."""
    rows = read_rows(source, data, labels=labels, targets=targets)
    _say(summary(rows))
    return rows


def _apart(training: Rows, **others: Rows | None) -> None:
    """Refuse rows to measure on that are training rows; of a few it is said."""
    for what, rows in others.items():
        if rows and (said := check_apart(training, rows, what)):
            _say(said)


def _show_audit(found: Audit, rows: Rows, out: Path) -> None:
    """Print what the audit found, draw it into audit.png, and write the suspect rows into suspects.jsonl."""
    from rich.console import Console

    from poison2poison.files import write_lines
    from poison2poison.report import audit_table, draw_audit

    draw_audit(found, out / "audit.png")
    write_lines(out / "suspects.jsonl", found.records(rows))
    Console().print(audit_table(found, len(rows)))


def _quiet() -> None:
    """Silence what the libraries say about their own matters; errors still show."""
    import logging
    import warnings

    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("accelerate", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")


def _free(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise OutputError(f"{out}: is not empty; give another --out, or delete it")


def _beside(folder: Path, *names: str) -> str | None:
    return next((str(folder / name) for name in names if (folder / name).is_file()), None)


def _target(triggered: str | None, target: str | None, effect: str | None, rows: Rows) -> Target | None:
    if not triggered:
        if target is not None or effect is not None:
            raise ConfigError(f"{'effect' if target is None else 'target'}: is of triggered rows; give --triggered")
        return None
    from poison2poison.attacks import EFFECTS
    from poison2poison.evaluation import Target, read_target

    truth = Path(triggered).with_name("truth.json")
    known = read_target(truth) if truth.is_file() else None
    text = target if target is not None else known.text if known else ""
    if not text.strip():
        raise ConfigError("target: give the attacker's label or text with --target, to measure the triggered rows")
    effect = effect or (known.effect if known else EFFECTS[rows.task][0])
    choice(f"effect (for {rows.task})", effect, EFFECTS[rows.task])
    if effect == "label" and text not in rows.labels:
        raise DataError(f"target: {text!r} is not one of {listed(rows.labels)}")
    return Target(text, effect)


def _print_results(contents: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console

    from poison2poison.report import sentence, table

    console = Console(soft_wrap=False)
    for content in contents:
        console.print(table(content))
        console.print(sentence(content), highlight=False, markup=False)
