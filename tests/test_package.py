"""What the package offers to whoever imports it."""

from __future__ import annotations

import importlib.util

import pytest

import poison2poison
import poison2poison as p2p
from poison2poison.errors import ConfigError, P2PError


def test_no_module_has_the_name_of_a_function_of_the_package() -> None:
    """Importing the module would put it in the function's place."""
    for name in p2p.__all__:
        assert importlib.util.find_spec(f"poison2poison.{name}") is None


def test_the_public_surface() -> None:
    assert sorted(poison2poison.__all__) == poison2poison.__all__
    assert all(getattr(poison2poison, name) is not None for name in poison2poison.__all__)
    assert issubclass(ConfigError, P2PError)
    with pytest.raises(AttributeError):
        poison2poison.nothing  # noqa: B018
