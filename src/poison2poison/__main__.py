"""`python -m poison2poison`, for launchers of several processes that want a module."""

from poison2poison.cli import main

main()
