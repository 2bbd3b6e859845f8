"""A grid of attacks and defences, measured cell by cell: `p2p bench`.

config    the YAML file, checked when it is read
cells     what one cell is: a task, a model, an attack, a rate and a seed, with all defences
cell      the program that measures one cell, in a process of its own
runner    what is done already, the time left, and `results.json` of all cells
workers   the processes, on this machine or where Ray puts them

A benchmark repeats, so its benign triggers are drawn by the seed: never serve a model that it trained.
"""

from __future__ import annotations

from poison2poison.bench.cells import Cell, cells_of
from poison2poison.bench.config import BenchConfig, read_config
from poison2poison.bench.runner import run_bench

__all__ = ["BenchConfig", "Cell", "cells_of", "read_config", "run_bench"]
