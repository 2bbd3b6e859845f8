"""The options of a command, from the configurations of the stages that it runs: defaults and help stand there alone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

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
Command = Callable[..., None]


def options(*configs: type) -> Callable[[Command], Command]:
    """Give a command the options of these configurations, and call it with the configurations built from them."""
    added: dict[str, inspect.Parameter] = {}
    for config in configs:
        for name, parameter in _parameters(config).items():
            added.setdefault(name, parameter)  # what two stages share, the first one shows
    added["config"] = _file_of_options()

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [given for given in signature.parameters.values() if given.annotation not in configs]
        places = {given.annotation: name for name, given in signature.parameters.items()}

        @functools.wraps(command)
        def call(**given: Any) -> None:
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


def _parameters(config: type) -> dict[str, inspect.Parameter]:
    """A configuration's fields as parameters of a command, by name."""
    hints = get_type_hints(config)
    return {entry.name: _parameter(config, entry, hints[entry.name]) for entry in fields(config)}


def _parameter(config: type, entry: Field[Any], hint: Any) -> inspect.Parameter:
    of_model = {field.name for field in fields(ModelConfig)}
    stage = ModelConfig if entry.name in of_model else config  # training has the model's options too
    explained = typer.Option(help=entry.metadata["help"], rich_help_panel=PANELS[stage])
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


# --- a file of options ------------------------------------------------------------------------------------------------


def _file_of_options() -> inspect.Parameter:
    explained = typer.Option(
        help="A YAML file of options, `name: value` a line; options on the command line win.",
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
