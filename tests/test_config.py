from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from poison2poison.config import TrainConfig, over_zero, read_yaml, with_options
from poison2poison.errors import ConfigError
from poison2poison.types import Adapted, Bits, Dtype, ModelKind, Preset, Tuning


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "decoder"},
        {"tuning": "half"},
        {"preset": "best"},
        {"dtype": "float64"},
        {"quantize": "2bit"},
        {"lora_targets": "none"},
        {"epochs": 0},
        {"batch_size": 0},
        {"micro_batch": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"seed": -1},
        {"lora_dropout": 1.5},
        {"max_length": 0},
    ],
)
def test_illegal_values_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TrainConfig(**options)


@pytest.mark.parametrize(
    ("name", "words"),
    [("kind", ModelKind), ("tuning", Tuning), ("preset", Preset), ("dtype", Dtype), ("quantize", Bits),
     ("lora_targets", Adapted)],
)  # fmt: skip
def test_every_word_of_an_options_vocabulary_is_legal(name: str, words: Any) -> None:
    options: list[dict[str, Any]] = [{name: word} for word in get_args(words)]
    assert [getattr(TrainConfig(**given), name) for given in options] == [*get_args(words)]


def test_zero_is_a_value_where_it_is_legal() -> None:
    assert TrainConfig(lora_dropout=0.0, seed=0).lora_dropout == 0.0


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("batch-size: 4\nrho: 0\n")
    assert read_yaml(path, ["batch_size", "rho"]) == {"batch_size": 4, "rho": 0}
    path.write_text("")
    assert read_yaml(path, ["rho"]) == {}
    for content, said in [
        ("rh0: 1", "unknown option 'rh0'; legal here: rho"),
        ("- 1", "no `name"),
        ("a: [", "not YAML"),
    ]:
        path.write_text(content)
        with pytest.raises(ConfigError, match=said):
            read_yaml(path, ["rho"])
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "missing.yaml", [])


@dataclass(frozen=True)
class Own:
    """Options of each type that finders have."""

    count: int = 3
    share: float = 0.5
    three: tuple[float, float, float] = (0.0, 1.0, 2.0)
    name: str = "x"

    def __post_init__(self) -> None:
        over_zero(self, shares=("share",))


def test_options_in_a_text_have_the_types_of_their_defaults() -> None:
    assert with_options(Own(), [], "own") == Own()
    given = ["count=4", "share = 1e-2", "three=1/2/0.5", "name=a b"]
    assert with_options(Own(), given, "own") == Own(4, 0.01, (1.0, 2.0, 0.5), "a b")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("cuont=4", "own: has no option 'cuont'; it has count, share, three, name"),
        ("count", "own: count: '' is not like its default, 3"),
        ("count=1.5", "own: count: '1.5' is not like its default, 3"),
        ("three=1/2", "own: three: '1/2' is not like its default, "),
        ("three=1/2/x", "own: three: '1/2/x' is not like its default, "),
        ("count=0", "own: count: 0 is not greater than 0"),
        ("share=nan", "own: share: nan is not between 0 and 1"),
        ("share=1", "own: share: 1.0 is not between 0 and 1"),
    ],
)
def test_options_that_there_are_not_and_illegal_values_are_refused(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_options(Own(), [given], "own")
