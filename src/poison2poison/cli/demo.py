"""The command that shows the whole path on reference tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poison2poison.cli.common import print_results, quiet, say

commands = typer.Typer()


@commands.command(epilog="Examples: `p2p demo` --- `p2p demo --full --out runs/large`")
def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for models and results; an interrupted demo goes on. [default: runs/demo, or runs/demo-full]"
        ),
    ] = None,
    full: Annotated[bool, typer.Option(help="All rows of the two tasks, and four rare words.")] = False,
) -> None:
    """Attack and defend the reference model on two reference tasks: one with labels, one with texts.

    Takes some minutes on two cores, and says first how many here. Ends with a table for each task: undefended,
    defended, and trained without the attack (the floor). Without --full the models have settings for few rows:
    docs/experiments.md.
    """
    quiet()
    from poison2poison.demo import FULL, FULL_STEPS, PICTURE, SMALL, SMALL_STEPS, run_demo, step_seconds
    from poison2poison.files import write_text
    from poison2poison.model import processes
    from poison2poison.report import page, read_run

    cases, steps, folder = (FULL, FULL_STEPS, "runs/demo-full") if full else (SMALL, SMALL_STEPS, "runs/demo")
    out = out or Path(folder)
    minutes = steps * step_seconds() / 60
    say(
        f"about {max(1, round(minutes))} minutes here, by ten timed training steps: longer beside other jobs, and by "
        "half where the safe space is learned late"
    )
    contents = run_demo(out, cases)
    if processes.is_writer():
        write_text(out / "report.html", page(read_run(out)))
    print_results(contents)
    for content in contents:
        say(f"what the audit found in {content['task']}: {out / content['task'] / PICTURE}")
    say(f"a report to open: {out / 'report.html'}; all figures: {out / 'results.json'}; models and manifests: {out}")
