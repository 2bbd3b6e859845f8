"""A server that listens, and drains when it is told to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from poison2poison.errors import ConfigError
from poison2poison.serve.app import Served, create_app
from poison2poison.serve.backends import Backend, InProcess
from poison2poison.serve.config import ServeConfig
from poison2poison.serve.door import Door
from poison2poison.serve.gate import Gate
from poison2poison.serve.keys import read_keys
from poison2poison.serve.logs import to_stderr

if TYPE_CHECKING:
    from poison2poison.model.prompting import Prompter


def serve(folder: Path, config: ServeConfig, *, allow_unlearned: bool = False) -> None:
    """Serve an artifact folder until SIGTERM or SIGINT; what is being answered then has `config.drain` seconds.

    Raises:
        ConfigError: A file of keys cannot be used, or an encoder shall be upstream, or an alarm that there is not.
        ModelError: The folder holds no finished run, or its model cannot be loaded.
        SchemeError: Its scheme is missing, broken or of a newer version.
    """
    hashes = read_keys(Path(config.api_keys)) if config.api_keys else {}
    name = config.name or folder.resolve().name
    if config.upstream is None:
        backend, served = _in_process(folder, name, config, allow_unlearned=allow_unlearned)
    else:
        backend, served = _upstream(folder, name, config, allow_unlearned=allow_unlearned)
    run(create_app(backend, served, config, hashes), config)


def run(app: Gate, config: ServeConfig) -> None:
    """Listen until the process is told to end."""
    to_stderr()
    uvicorn.run(
        app,
        host=config.host,
        port=config.port,
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(config.drain)),
    )


def _in_process(folder: Path, name: str, config: ServeConfig, *, allow_unlearned: bool) -> tuple[Backend, Served]:
    from poison2poison.model.defended import DefendedModel

    model = DefendedModel.load(folder, allow_unlearned=allow_unlearned)  # the door has the policy
    served = Served(name, model.scheme.labels, model.alarm_threshold is not None)
    return InProcess(model, Door(model.prompter, config), config), served


def _upstream(folder: Path, name: str, config: ServeConfig, *, allow_unlearned: bool) -> tuple[Backend, Served]:
    from poison2poison.model.defended import load_alarm_threshold, load_prompter
    from poison2poison.serve.upstream import Upstream

    prompter: Prompter = load_prompter(folder, allow_unlearned=allow_unlearned)
    over = load_alarm_threshold(folder, allow_unlearned=allow_unlearned) if config.upstream_alarm else None
    if config.upstream_alarm and over is None:
        raise ConfigError("upstream_alarm: this model has no alarm; it is set in training, with --dev")
    served = Served(name, prompter.scheme.labels, over is not None)
    return Upstream(prompter, Door(prompter, config), config, name, over), served
