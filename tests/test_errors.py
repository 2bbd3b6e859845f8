"""What errors say: values escaped and not too long, names not too many; and which of them have an exit code alike."""

from __future__ import annotations

import pytest

from poison2poison import errors
from poison2poison.errors import FOUND, MENDABLE, SHOWN, UNFINISHED, listed, more, told


def test_a_value_is_shown_escaped_and_in_80_characters_at_most() -> None:
    assert told("a\x1b[2J\nb") == r"'a\x1b[2J\nb'"
    assert told("x" * 78) == f"'{'x' * 78}'"
    long = told("x" * 79)
    assert (len(long), long[-4:]) == (80, "x...")


def test_few_names_are_all_shown_and_of_many_it_is_said_how_many_are_not() -> None:
    assert listed(["a", 1]) == "'a', 1"
    assert listed([*range(SHOWN)]).endswith(f", {SHOWN - 1}")
    assert listed([*range(SHOWN + 3)]).endswith(f", {SHOWN - 1} and 3 more")
    assert listed([]) == ""
    assert (more(SHOWN), more(SHOWN + 1)) == ("", " and 1 more")


def test_every_error_that_a_user_can_mend_is_a_p2p_error() -> None:
    own = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert [kind for kind in own if not issubclass(kind, errors.P2PError)] == []
    assert len(own) == 10


@pytest.mark.parametrize("kind", [errors.NonFiniteError, errors.UnlearnedError])
def test_a_training_without_a_model_is_no_bad_option(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.TrainingError)
    assert not issubclass(kind, errors.ConfigError)


def test_an_illegal_option_is_a_value_error_too() -> None:
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.InapplicableError, errors.ConfigError)


def test_exit_codes_differ_from_each_other_and_from_success() -> None:
    assert len({0, FOUND, MENDABLE, UNFINISHED}) == 4
