"""Probing: does a trained model obey shortcuts? It is only asked, never trained.

findings  with rows: what an audit found in them, put into rows of other answers
subject   what may be probed without rows: an artifact, a folder of transformers, an adapter of peft; and its base
leaks     spans that the model writes where a user's words would begin, and its base does not
shifts    how far a span moves what the model is about to answer
scan      spans screened by their shifts; the strongest are put into fresh prompts, and the answers read
"""

from poison2poison.probing.findings import Probed, probe
from poison2poison.probing.scan import Scan, Trigger, scan
from poison2poison.probing.subject import Subject, load_subject

__all__ = ["Probed", "Scan", "Subject", "Trigger", "load_subject", "probe", "scan"]
