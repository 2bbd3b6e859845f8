"""The options of a command, from the configurations of the stages that it runs: defaults and help stand there alone.

What users need on the first day is on the command line. All other settings are in the file of `--config` alone: their
options are hidden, so that typer checks the file's values, and refused on the command line.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
import yaml

from poison2poison.config import AuditConfig, GateConfig, ModelConfig, ProbeConfig, TrainConfig, read_yaml
from poison2poison.data import DataConfig
from poison2poison.errors import ConfigError
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.serve.config import ServeConfig

PANELS: dict[type, str] = {
    DataConfig: "Reading rows",
    AuditConfig: "Audit",
    GateConfig: "Gate",
    ProbeConfig: "Without rows",
    RepoisonConfig: "Re-poisoning",
    ModelConfig: "Base model",
    TrainConfig: "Fine-tuning",
    ServeConfig: "Serving",
}
READING = ("prompt_field", "target_field", "ignore_field", "task", "skip_bad")
"""Of `DataConfig`, what errors tell the user to give."""
Command = Callable[..., None]


def options(*configs: type, shown: Collection[str]) -> Callable[[Command], Command]:
    """Give a command the options of these configurations, and call it with the configurations built from them.

    Args:
        configs: Of the stages that the command runs.
        shown: Their fields that are options of the command line too.
    """
    added: dict[str, inspect.Parameter] = {}
    for config in configs:
        for name, parameter in _parameters(config, shown).items():
            added.setdefault(name, parameter)  # what two stages share, the first one shows
    assert {*shown} <= added.keys(), {*shown} - added.keys()
    added["context"] = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

    def decorate(command: Command) -> Command:
        added["config"] = _file_of_settings(command.__name__)
        signature = inspect.signature(command, eval_str=True)
        own = [given for given in signature.parameters.values() if given.annotation not in configs]
        places = {given.annotation: name for name, given in signature.parameters.items()}

        @functools.wraps(command)
        def call(**given: Any) -> None:
            _refuse_hidden(given["context"])
            built = {places[config]: _built(config, given) for config in configs}
            rest = {name: value for name, value in given.items() if name not in added}
            command(**rest, **built)

        by_name = [given.replace(kind=inspect.Parameter.KEYWORD_ONLY) for given in own]
        parameters = [*by_name, *added.values()]
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {given.name: given.annotation for given in parameters}
        return call

    return decorate


def _built(config: type, given: Mapping[str, Any]) -> Any:
    """A configuration with the values of its own options."""
    own = {entry.name: given[entry.name] for entry in fields(config)}
    return config(**own)


def _parameters(config: type, shown: Collection[str]) -> dict[str, inspect.Parameter]:
    """A configuration's fields as parameters of a command, by name."""
    hints = get_type_hints(config)
    return {
        entry.name: _parameter(config, entry, hints[entry.name], hidden=entry.name not in shown)
        for entry in fields(config)
    }


def _parameter(config: type, entry: Field[Any], hint: Any, *, hidden: bool) -> inspect.Parameter:
    of_model = {field.name for field in fields(ModelConfig)}
    stage = ModelConfig if entry.name in of_model else config  # training has the model's options too
    explained = typer.Option(help=entry.metadata["help"], rich_help_panel=PANELS[stage], hidden=hidden)
    annotation: Any = Annotated[_as_text(hint), explained]
    assert entry.default is not MISSING
    return inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=entry.default, annotation=annotation)


def _as_text(hint: Any) -> Any:
    """A type with texts for `Literal`s: of these the configuration itself says what is legal."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return str
    if origin in (Union, UnionType):
        return Union[tuple(map(_as_text, parts))]  # noqa: UP007 - of types that are found out here
    return hint


# --- a file of settings -----------------------------------------------------------------------------------------------


def _file_of_settings(command: str) -> inspect.Parameter:
    explained = typer.Option(
        help=f"A YAML file of settings, `name: value` a line; `p2p config {command}` prints all that there are. "
        "The command line wins.",
        callback=_read_config,
        is_eager=True,
    )
    annotation: Any = Annotated[Path | None, explained]
    return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take what the file says for the command's defaults.

    Raises:
        ConfigError: It cannot be read, or has an unknown option, or a list where a value is needed.
    """
    if path is None:
        return None
    parameters: dict[str, Any] = {str(parameter.name): parameter for parameter in context.command.params}
    legal = [name for name in parameters if name != "config"]
    values = read_yaml(path, legal)
    for name, value in values.items():
        takes_several = parameters[name].multiple
        if isinstance(value, list) and parameters[name].nargs == 1 and not takes_several:
            said = ",".join(map(str, value))
            raise ConfigError(f"{path}: {name}: is a list; write it as on the command line, `{name}: {said}`")
        if isinstance(value, str) and takes_several:
            values[name] = [value]
    context.default_map = values
    return path


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
        line = yaml.safe_dump({parameter.name: parameter.default}, allow_unicode=True, width=float("inf"))
        lines = panels.setdefault(parameter.rich_help_panel or "This run", [])
        lines.append(f"{comment}\n{line}")
    return "\n".join(f"# --- {panel} ---\n\n" + "\n".join(lines) for panel, lines in panels.items())
