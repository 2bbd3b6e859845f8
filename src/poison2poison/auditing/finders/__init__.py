"""Finders, one module each, under one contract.

base             what a finder and a finding are, and the registry
spans            words, marks and forms that pull answers without a reason (`questions`, `weighing`)
style_clusters   rows written alike that lean to a label

How to add one: docs/how-to/add-a-finder.md.
"""

from __future__ import annotations

from poison2poison.auditing.finders import spans, style_clusters
from poison2poison.auditing.finders.base import FINDERS, Finder, Finding

__all__ = ["FINDERS", "Finder", "Finding", "spans", "style_clusters"]
