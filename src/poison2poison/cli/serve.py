"""The command that serves a model to others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poison2poison.cli.common import Unlearned, quiet
from poison2poison.errors import ConfigError
from poison2poison.options import options
from poison2poison.serve.config import ServeConfig

commands = typer.Typer()
SHOWN = (
    "host", "port", "api_keys", "name", "policy", "upstream", "upstream_model", "upstream_key", "upstream_alarm",
)  # fmt: skip


@commands.command(epilog="Examples: `p2p serve runs/mine/p2p-hardened` --- "
             "`p2p serve runs/mine/p2p-hardened --upstream http://127.0.0.1:8001 --upstream-model mine`")  # fmt: skip
@options(ServeConfig, shown=SHOWN)
def serve(
    folder: Annotated[Path, typer.Argument(help="An artifact folder of `p2p train`, or an arm of `p2p defend`.")],
    config: ServeConfig,
    allow_unlearned: Unlearned = False,
) -> None:
    """Serve a trained model to OpenAI's clients: trigger added, answers projected back, hidden texts kept.

    It listens on this machine alone unless it has keys. A page to try it is at its address.
    """
    try:
        import fastapi  # noqa: F401
        import httpx2  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as missing:
        raise ConfigError(f"serve: {missing.name} is not installed; pip install 'poison2poison[serve]'") from None
    quiet()
    from poison2poison.serve.server import serve as listen

    listen(folder, config, allow_unlearned=allow_unlearned)
