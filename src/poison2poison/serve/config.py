"""The settings of `p2p serve`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import get_args

from poison2poison.config import at_least, choice, option
from poison2poison.errors import ConfigError
from poison2poison.types import Policy


@dataclass(frozen=True)
class ServeConfig:
    """How a model is served. The sizes are bounds for strangers' requests, not for the model."""

    host: str = option("127.0.0.1", "Address to listen on; any but a loopback one needs --api-keys.")
    port: int = option(8000, "Port; 0 takes one that is free.")
    api_keys: str | None = option(None, "File of who may ask: a line `name:SHA-256 of the key` each.")
    name: str | None = option(None, "The model's name for clients. [default: the folder's]")
    policy: Policy = option("flag", "For leaks and off-space answers: `flag`, `refuse` or `pass`.")
    upstream: str | None = option(None, "URL of an OpenAI-compatible server that has the model's weights.")
    upstream_model: str | None = option(None, "The model's name there. [default: --name]")
    upstream_key: str | None = option(None, "File with the key that is sent there.")
    upstream_alarm: bool = option(False, "It tells scores of a prompt's tokens (`echo`, `logprobs`), for the alarm.")
    max_body: int = option(262_144, "Bytes of a request.")
    max_prompt: int | None = option(None, "Tokens of an input. [default: what the model takes]")
    max_choices: int = option(8, "Answers of a request: inputs times n.")
    queue: int = option(256, "Inputs that may wait; more are told to come back (429).")
    batch: int = option(16, "Inputs that are answered together, or are upstream at a time.")
    timeout: float = option(60.0, "Seconds for a request's body, and then for its answer.")
    drain: float = option(30.0, "Seconds for what is being answered when the server is told to end.")

    def __post_init__(self) -> None:
        choice("policy", self.policy, get_args(Policy))
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port: {self.port} is not between 0 and 65535")
        for name in ("max_body", "max_choices", "batch"):
            at_least(name, getattr(self, name), 1)
        if self.max_prompt is not None:
            at_least("max_prompt", self.max_prompt, 1)
        at_least("queue", self.queue, self.max_choices)  # or a request could wait for ever
        for name in ("timeout", "drain"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: {getattr(self, name)} is not greater than 0")
        self._check_upstream()
        if not self.api_keys and not is_loopback(self.host):
            raise ConfigError(
                f"host: {self.host} is open to other machines; give a file of keys with --api-keys, or leave --host out"
            )

    def _check_upstream(self) -> None:
        if self.upstream is None:
            for name in ("upstream_model", "upstream_key", "upstream_alarm"):
                if getattr(self, name):
                    raise ConfigError(f"{name}: is of another server; give --upstream")
        elif not self.upstream.startswith(("http://", "https://")):
            raise ConfigError("upstream: give a URL that begins with http:// or https://")


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
