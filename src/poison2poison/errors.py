"""Everything that a user can get wrong.

    P2PError
    ├── DataError       a data file: missing, broken, of mixed layouts, with labels outside the set, ...
    ├── ConfigError     an option or a configuration file: unknown key, illegal value, contradiction
    │   └── InapplicableError   a defence that says nothing of such rows, or of such a model
    ├── SchemeError     a scheme that cannot be read, or that does not fit the data
    ├── ModelError      a model folder that cannot be used
    ├── OutputError     an output folder that holds something else, or cannot be written
    └── TrainingError   a training that ended without a model that can be used
        ├── NonFiniteError  a loss, gradient or weight became NaN or infinite
        └── UnlearnedError  the safe space was not learned

The library raises them; the command line alone turns them into a message and an exit code: 3 for a `TrainingError`, for
which nobody may be to blame, else 2. A fault of the program ends in 3 too: 1 stands for what a gate found.
"""

from collections.abc import Collection

FOUND, MENDABLE, UNFINISHED = 1, 2, 3
"""Exit codes, beside 0: a gate has findings; the user can mend it; the program could not finish."""

SHOWN = 20
"""Rows, labels or fields that a message names at most."""


def told(value: object) -> str:
    """A value in a message: escaped, and not too long."""
    said = repr(value)
    return said if len(said) <= 80 else f"{said[:77]}..."


def listed(names: Collection[object]) -> str:
    """Names in a message: escaped, and not too many."""
    return ", ".join(told(name) for name in [*names][:SHOWN]) + more(len(names))


def more(count: int) -> str:
    """How many of so many things a message does not name."""
    return f" and {count - SHOWN} more" if count > SHOWN else ""


class P2PError(Exception):
    """Base of all errors that a user can mend; the message says what is wrong and what would be right."""


class DataError(P2PError):
    """A data file or its rows cannot be used."""


class ConfigError(P2PError, ValueError):
    """An option has an illegal value, is unknown, or contradicts another."""


class InapplicableError(ConfigError):
    """A defence says nothing of such rows, or lacks the model that it asks."""


class SchemeError(P2PError):
    """The scheme cannot be read, or does not fit the data."""


class ModelError(P2PError):
    """The model or the artifact folder cannot be used."""


class OutputError(P2PError):
    """The output folder is taken, or cannot be written."""


class TrainingError(P2PError):
    """A training ended without a model that can be used."""


class NonFiniteError(TrainingError):
    """A loss, gradient or weight became NaN or infinite."""


class UnlearnedError(TrainingError):
    """The safe space was not learned: the model is not a defence."""
