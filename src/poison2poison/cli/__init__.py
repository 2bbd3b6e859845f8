"""The command `p2p`: parse, call one library function, print. Torch is imported by the commands that need it."""

from poison2poison.cli.app import main

__all__ = ["main"]
