"""The options of a command, from the configurations of the stages that it runs: defaults and help stand there alone.

What users need on the first day is on the command line. All other settings are in the file of `--config` alone: their
options are hidden, so that typer checks the file's values, and refused on the command line.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
import yaml

from poison2poison.config import AuditConfig, ModelConfig, TrainConfig, read_yaml
from poison2poison.data import DataConfig
from poison2poison.errors import ConfigError
from poison2poison.recipe.config import RepoisonConfig

PANELS: dict[type, str] = {
    DataConfig: "Reading rows",
    AuditConfig: "Audit",
    RepoisonConfig: "Re-poisoning",
    ModelConfig: "Base model",
    TrainConfig: "Fine-tuning",
}
READING = ("prompt_field", "target_field", "ignore_field", "task", "skip_bad")
"""Of `DataConfig`, what errors tell the user to give."""


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        parameters: dict[str, Any] = {str(parameter.name): parameter for parameter in context.command.params}
        values = read_yaml(path, [name for name in parameters if name != "config"])
        for name, value in values.items():
            if isinstance(value, list) and parameters[name].nargs == 1 and not parameters[name].multiple:
                said = ",".join(map(str, value))
                raise ConfigError(f"{path}: {name}: is a list; write it as on the command line, `{name}: {said}`")
            if isinstance(value, str) and parameters[name].multiple:
                values[name] = [value]
        context.default_map = values
    return path


def options(*configs: type, shown: Collection[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these configurations, and call it with the configurations built from them.

    Args:
        configs: Of the stages that the command runs.
        shown: Their fields that are options of the command line too.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.annotation not in configs]
        places = {p.annotation: name for name, p in signature.parameters.items() if p.annotation in configs}
        added: dict[str, inspect.Parameter] = {}
        for config in configs:  # of fields that two of them have, the first one's help
            for parameter in _of_config(config, shown):
                added.setdefault(parameter.name, parameter)
        assert {*shown} <= added.keys(), {*shown} - added.keys()
        added["config"] = _of_file(command.__name__)
        added["context"] = inspect.Parameter("context", KEYWORD, annotation=typer.Context)

        @functools.wraps(command)
        def call(**given: Any) -> None:
            _refuse_hidden(given.pop("context"))
            given.pop("config")
            built = {places[c]: c(**{entry.name: given[entry.name] for entry in fields(c)}) for c in configs}
            rest = {name: value for name, value in given.items() if name not in added}
            command(**rest, **built)

        parameters = [*(p.replace(kind=KEYWORD) for p in own), *added.values()]
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return decorate


KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _of_config(config: type, shown: Collection[str]) -> Iterator[inspect.Parameter]:
    """An option for each field of a configuration."""
    hints = get_type_hints(config)
    of_model = {entry.name for entry in fields(ModelConfig)}
    for entry in fields(config):
        panel = PANELS[ModelConfig if entry.name in of_model else config]
        hidden = entry.name not in shown
        explained = typer.Option(help=entry.metadata["help"], rich_help_panel=panel, hidden=hidden)
        annotation: Any = Annotated[hints[entry.name], explained]
        assert entry.default is not MISSING
        yield inspect.Parameter(entry.name, KEYWORD, default=entry.default, annotation=annotation)


def _of_file(command: str) -> inspect.Parameter:
    explained = typer.Option(
        help=f"A YAML file of settings, `name: value` a line; `p2p config {command}` prints all that there are. "
        "The command line wins.",
        callback=_read_config,
        is_eager=True,
    )
    annotation: Any = Annotated[Path | None, explained]
    return inspect.Parameter("config", KEYWORD, default=None, annotation=annotation)


def _refuse_hidden(context: typer.Context) -> None:
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if getattr(parameter, "hidden", False) and source is not None and source.name == "COMMANDLINE":
            # Its value may be a secret, so it is not said.
            raise ConfigError(f"{name}: is set in the file of --config alone; write a line `{name}: ...` into it")


def all_settings(command: Any) -> str:
    """A YAML file of all settings of a command (of typer's) at their defaults, with their help as comments.

    Its argument and its required options are not in it.
    """
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if parameter.param_type_name != "option" or parameter.required or parameter.name in ("config", "help"):
            continue
        comment = textwrap.fill(
            parameter.help, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
        )
        lines = panels.setdefault(parameter.rich_help_panel or "This run", [])
        line = yaml.safe_dump({parameter.name: parameter.default}, allow_unicode=True, width=float("inf"))
        lines.append(f"{comment}\n{line}")
    return "\n".join(f"# --- {panel} ---\n\n" + "\n".join(lines) for panel, lines in panels.items())
