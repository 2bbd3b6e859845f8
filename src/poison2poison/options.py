"""The options of a command, from the configurations of the stages that it runs: defaults and help stand there alone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

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


def options(*configs: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these configurations, and call it with the configurations built from them."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.annotation not in configs]
        places = {p.annotation: name for name, p in signature.parameters.items() if p.annotation in configs}
        added: dict[str, inspect.Parameter] = {}
        for config in configs:
            hints = get_type_hints(config)
            for entry in fields(config):
                stage = ModelConfig if entry.name in {model.name for model in fields(ModelConfig)} else config
                explained = typer.Option(help=entry.metadata["help"], rich_help_panel=PANELS[stage])
                annotation: Any = Annotated[hints[entry.name], explained]
                assert entry.default is not MISSING
                added.setdefault(
                    entry.name,
                    inspect.Parameter(
                        entry.name, inspect.Parameter.KEYWORD_ONLY, default=entry.default, annotation=annotation
                    ),
                )
        file: Any = Annotated[
            Path | None,
            typer.Option(
                help="A YAML file of options, `name: value` a line; options on the command line win.",
                callback=_read_config,
                is_eager=True,
            ),
        ]
        added["config"] = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=file)

        @functools.wraps(command)
        def call(**given: Any) -> None:
            given.pop("config")
            built = {places[c]: c(**{entry.name: given[entry.name] for entry in fields(c)}) for c in configs}
            rest = {name: value for name, value in given.items() if name not in added}
            command(**rest, **built)

        parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *added.values()]
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return decorate
