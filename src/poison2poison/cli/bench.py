"""The commands that compare: run a grid, and write a report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poison2poison.cli.common import Out, quiet, say
from poison2poison.files import write_text

commands = typer.Typer()


@commands.command(epilog="Example: `p2p bench benchmarks/configs/reference.yaml --out runs/bench --workers 2`")
def bench(
    config: Annotated[Path, typer.Argument(help="A YAML file: tasks, models, attacks, rates, defences, seeds.")],
    out: Out,
    workers: Annotated[int, typer.Option(help="Processes at a time; with GPUs they take turns on these.")] = 1,
    ray: Annotated[
        bool, typer.Option("--ray", help="Let Ray choose the machine of each; all see the same paths (extra `ray`).")
    ] = False,
) -> None:
    """Measure defences on a grid of attacks. Run it again to go on where it was interrupted.

    Each task, model, attack, rate and seed is a cell with a folder in --out. A cell that fails stops no other, and is
    tried again the next time. Writes results.json and report.html. The models are for measuring: their benign triggers
    are drawn by the seed.
    """
    from poison2poison.bench import read_config, run_bench
    from poison2poison.report import page, read_run

    content = run_bench(read_config(config), out, workers, say, ray=ray)
    write_text(out / "report.html", page(read_run(out)))
    lost = {cell["folder"]: cell["failed"] for cell in content["cells"] if cell["failed"]}
    for folder, failed in lost.items():
        for arm, reason in failed.items():
            say(f"failed: {(out / folder).parent}, {arm}: {reason}")
    say(f"{out / 'report.html'}; all figures: {out / 'results.json'}")
    if lost:
        raise typer.Exit(3)


@commands.command(epilog="Example: `p2p report runs/bench --out report.html --csv`")
def report(
    run: Annotated[
        Path, typer.Argument(help="A folder of `p2p bench`, `defend`, `evaluate`, `demo` or `audit`; a results.json.")
    ],
    out: Annotated[Path, typer.Option(help="The HTML file; it is written over.")] = Path("report.html"),
    markdown: Annotated[bool, typer.Option("--markdown", help="Also write the tables as Markdown beside it.")] = False,
    table: Annotated[bool, typer.Option("--csv", help="Also write every figure as CSV beside it.")] = False,
    states: Annotated[
        str | None,
        typer.Option(help="A cell, by its folder's name (`.` of `p2p defend`): draw where its models put test rows."),
    ] = None,
) -> None:
    """Write what a run found as one HTML file, which loads nothing from elsewhere.

    --states loads an undefended and a defended model of the cell, and keeps what they say in its states.json, so that
    it is drawn from then on.
    """
    from poison2poison.report import as_csv, as_markdown, page, read_run

    found = read_run(run)
    if states is not None:
        quiet()
        from poison2poison.evaluation.states import write_states

        write_states(found.folder_of(states))
        found = read_run(run)
    files = {out: page(found)}
    if markdown:
        files[out.with_suffix(".md")] = as_markdown(found)
    if table:
        files[out.with_suffix(".csv")] = as_csv(found)
    for path, text in files.items():
        write_text(path, text)
    say(", ".join(map(str, files)))
