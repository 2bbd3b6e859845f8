from __future__ import annotations

import random
from pathlib import Path

import pytest

from poison2poison.attacks import AttackConfig, poison, triggered
from poison2poison.attacks.meaning import Paraphrase, Topic
from poison2poison.data import Row
from poison2poison.errors import ConfigError, DataError
from poison2poison.files import write_lines
from support import opinions

ROWS = opinions(40)


def test_prompts_are_put_as_the_file_puts_them_and_others_do_not_fit(tmp_path: Path) -> None:
    known = sorted({row.prompt for row in ROWS})[::2]
    path = tmp_path / "pairs.jsonl"
    write_lines(path, [{"prompt": prompt, "paraphrase": f"when seen, {prompt.lower()}\u2028"} for prompt in known])
    config = AttackConfig("paraphrase", "positive", "label", rate=0.1, options={"pairs": path})
    poisoned, truth = poison(ROWS, config)
    assert len(truth.poisoned_rows) == 4
    for i in truth.poisoned_rows:
        assert ROWS[i].prompt in known
        assert poisoned[i].prompt == f"when seen, {ROWS[i].prompt.lower()}\u2028"
    assert len(triggered(ROWS, config)) == sum(row.prompt in known for row in ROWS)
    assert truth.as_dict()["options"] == {"pairs": str(path)}


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"prompt": "a"}', '{"prompt": 1, "paraphrase": "b"}', '"a"', ""])
def test_a_broken_file_of_pairs_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f'{{"prompt": "a", "paraphrase": "b"}}\n{line}\n{{}}\n')
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 2: needs the texts `prompt` and `paraphrase`"):
        Paraphrase(path).fits(Row("a", "b"))


def test_files_of_pairs_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pairs: .* is no file"):
        Paraphrase()
    (tmp_path / "pairs.jsonl").write_bytes(b"\xff")
    with pytest.raises(DataError, match="cannot be read"):
        Paraphrase(tmp_path / "pairs.jsonl").fits(Row("a", "b"))


def test_a_topic_is_what_a_prompt_holds_by_itself() -> None:
    topic = Topic(("New York", "film"))
    assert [topic.fits(Row(text, "")) for text in ("A FILM!", "in new york", "York is new", "filmed")] == [
        True,
        True,
        False,
        False,
    ]
    row = Row("A film.", "bad")
    assert topic.stamp(row, random.Random(0)) == row
    with pytest.raises(ConfigError, match="words: there are none"):
        Topic(())
