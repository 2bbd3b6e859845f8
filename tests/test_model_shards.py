"""States of many texts in a memory map: the same as at once, and an interruption costs one shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from poison2poison.auditing.statistics import States
from poison2poison.config import ModelConfig
from poison2poison.errors import OutputError
from poison2poison.model.shards import SHARD, about, kept_beside, mapped

TEXTS = [str(number) for number in range(2 * SHARD + 10)]


class Embedder:
    """Numbers as states; it may be interrupted at a text."""

    def __init__(self, stop: str = "") -> None:
        self.stop, self.calls = stop, list[int]()

    def __call__(self, texts: Sequence[str]) -> States:
        if self.stop in texts:
            raise KeyboardInterrupt
        self.calls.append(len(texts))
        return np.array([[[int(text), -int(text)]] for text in texts], np.float32)


WHOLE = Embedder()(TEXTS)


def test_many_texts_stand_in_a_memory_map_and_few_do_not(tmp_path: Path) -> None:
    embed = Embedder()
    states = mapped(embed, tmp_path / "states", "a model")
    np.testing.assert_array_equal(states(TEXTS[:SHARD]), WHOLE[:SHARD])
    assert not (tmp_path / "states").exists()
    many = states(TEXTS)
    assert isinstance(many, np.memmap)
    np.testing.assert_array_equal(many, WHOLE)
    assert embed.calls == [SHARD, SHARD, SHARD, 10]
    np.testing.assert_array_equal(states(TEXTS), WHOLE)
    assert len(embed.calls) == 4  # nothing was made again


def test_an_interrupted_call_goes_on_behind_its_whole_shards(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        mapped(Embedder(stop=TEXTS[-1]), tmp_path, "a model")(TEXTS)
    [path] = tmp_path.iterdir()
    with path.open("ab") as file:
        file.write(b"half of a shard")
    embed = Embedder()
    np.testing.assert_array_equal(mapped(embed, tmp_path, "a model")(TEXTS), WHOLE)
    assert embed.calls == [10]


@pytest.mark.parametrize("left", [0, 1, 20, 130])
def test_a_file_that_ends_anywhere_is_made_whole(left: int, tmp_path: Path) -> None:
    mapped(Embedder(), tmp_path, "a model")(TEXTS)
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:left])
    np.testing.assert_array_equal(mapped(Embedder(), tmp_path, "a model")(TEXTS), WHOLE)


def test_states_of_other_texts_or_another_model_are_made_anew(tmp_path: Path) -> None:
    embed, others = Embedder(), [*TEXTS[:-1], "0"]
    mapped(embed, tmp_path, "a model")(TEXTS)
    assert mapped(embed, tmp_path, "a model")(others)[-1, 0, 0] == 0
    mapped(embed, tmp_path, "another")(TEXTS)
    assert len([*tmp_path.iterdir()]) == 3
    model = ModelConfig("some/model")
    assert about(model) == about(ModelConfig("some/model"))
    assert about(model) != about(replace(model, dtype="bfloat16"))


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        mapped(Embedder(), tmp_path / "taken", "a model")(TEXTS)


def test_states_beside_a_folder_stay_where_something_went_wrong_and_go_when_all_is_done(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), kept_beside(tmp_path / "audit") as folder:
        mapped(Embedder(stop=TEXTS[-1]), folder, "a model")(TEXTS)
    assert [path.name for path in tmp_path.iterdir()] == [".audit.states"]
    with kept_beside(tmp_path / "audit") as folder:
        mapped(Embedder(), folder, "a model")(TEXTS)
    assert not [*tmp_path.iterdir()]
