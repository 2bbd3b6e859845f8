from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from poison2poison.data import (
    DataConfig,
    Row,
    read_rows,
    rows_of,
    summary,
)
from poison2poison.errors import ConfigError, DataError
from records import GOOD, write_jsonl


def test_the_command_that_an_error_names_works(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"title": f"a {i}", "story": "Once.", "kind": i % 2} for i in range(10)])
    with pytest.raises(DataError, match="--prompt-field title --prompt-field story --target-field kind --task class"):
        read_rows(str(path))
    named = DataConfig(prompt_field=["title", "story"], target_field="kind", task="classification")
    assert read_rows(str(path), named)[3] == Row("a 3\n\nOnce.", "1")
    written = DataConfig(prompt_field=["title", "story"], target_field="kind", prompt_template="{story} ({title})")
    assert read_rows(str(path), written)[3] == Row("Once. (a 3)", "1")
    with pytest.raises(ConfigError, match=r"prompt_template: must hold \{title\}"):
        DataConfig(prompt_field=["title"], target_field="kind", prompt_template="{story}")
    write_jsonl(path, [{"text": "Only text."}])
    with pytest.raises(DataError, match="'text' alone is free text"):
        read_rows(str(path))


def test_fields_task_and_labels_can_be_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"in": "x", "out": "10"}, {"in": "y", "out": "9"}])
    path = str(tmp_path / "rows.jsonl")
    named: dict[str, Any] = {"prompt_field": ["in"], "target_field": "out", "task": "classification"}
    assert read_rows(path, DataConfig(**named)).labels == ("9", "10")  # numbers by value
    assert read_rows(path, DataConfig(**named, labels="10, 9, 8")).labels == ("10", "9", "8")
    assert read_rows(path, DataConfig(**{**named, "task": "generation"})).labels == ()
    assert read_rows(path, DataConfig(**named), labels=["9", "10"]).labels == ("9", "10")
    with pytest.raises(ConfigError, match="labels: layout fields holds texts"):
        read_rows(path, DataConfig(**{**named, "task": "generation"}, labels="9"))
    with pytest.raises(ConfigError, match="labels: 9, 10, 9 names a label twice"):
        read_rows(path, DataConfig(**named, labels="9, 10, 9"))
    with pytest.raises(DataError, match=r"line 2: the label is not one of '10', '11' \('9'\)"):
        read_rows(path, DataConfig(**named), labels=["10", "11"])
    with pytest.raises(DataError, match=r"line 1: fields 'in', 'out' are no known layout"):
        read_rows(path)


def test_named_targets_are_labels_where_they_come_again(tmp_path: Path) -> None:
    named = DataConfig(prompt_field=["in"], target_field="out")
    for targets, task in (
        (["yes", "no"] * 10, "classification"),
        ([f"An answer {i}." for i in range(20)], "generation"),
    ):
        write_jsonl(tmp_path / "rows.jsonl", [{"in": "x", "out": target} for target in targets])
        assert read_rows(str(tmp_path / "rows.jsonl"), named).task == task


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "poem"},
        {"task": "poetry"},
        {"prompt_field": ["x"]},
        {"target_field": "x"},
        {"layout": "alpaca", "prompt_field": ["x"], "target_field": "y"},
        {"prompt_template": "{x}"},
    ],
)
def test_illegal_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DataConfig(**options)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no rows"),
        (f"{GOOD}\n" * 6 + '{"text": ', "rows.jsonl, line 7: broken JSON"),
        (f"{GOOD}\n\n[1]", "rows.jsonl, line 3: not a JSON object"),
        (f'{GOOD}\n{{"text": "x"}}', "line 2: no field 'label', which layout text-label needs"),
        (f'{GOOD}\n{{"text": "x", "label": null}}', "line 2: field 'label' holds no label. 1 row cannot be used"),
        (f'{GOOD}\n{{"text": "x", "label": 1.5}}', "line 2: field 'label' holds a score and no label (1.5)"),
        (f'{GOOD}\n{{"text": 5, "label": "a"}}', "line 2: field 'text' holds no text (5)"),
        (
            f'{GOOD}\n{{"prompt": "x", "completion": "y"}}',
            "line 2: layout prompt-completion, but the file began as text",
        ),
        ('{"messages": [{"role": "user", "content": "x"}]}', "line 1: field 'messages' has no answer"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "field 'messages' has no user turn before"),
        ('{"messages": ["x", "y"]}', "line 1: field messages, turn 1: no turn of role and content ('x')"),
        ('{"messages": []}', "line 1: field 'messages' must list turns"),
        ('{"messages": [{"role": "judge", "content": "x"}]}', "messages, turn 1: its role is none of system"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "content of another kind than text"),
        ('{"prompt": "x", "completion": ""}', "line 1: field 'completion' holds no text ('')"),
        ('{"instruction": "x", "input": {"room": 0}, "output": "y"}', "field 'input' holds no text ({'room': 0})"),
        ('{"instruction": "x", "output": {"hue": "red"}}', "line 1: field 'output' holds no text ({'hue': 'red'})"),
        (f'{GOOD}\n{{"text": "cut \\ud83d", "label": "a"}}', "line 2: field 'text' holds half a character"),
        (f'{GOOD}\n{{"text": "x", "label": "\\udc00"}}', "line 2: field 'label' holds half a character"),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "\\ud83d"}]}',
            "line 1: field 'messages' holds half a character",
        ),
    ],
)
def test_what_is_wrong_is_named(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(DataError) as error:
        read_rows(str(tmp_path / "rows.jsonl"))
    assert said in str(error.value)
    assert "rows.jsonl" in str(error.value)


@pytest.mark.parametrize(
    ("labels", "found", "said"),
    [
        (["Positive", "positive", "positive", "negative"], ("negative", "positive"), "'Positive' (1 rows) are read as"),
        ([1, "1", 1.0, "0.0"], ("0", "1"), "'0.0' (1 rows) are read as '0'"),
        ([-1, 1, 1, -1], ("-1", "1"), ""),
        ([True, False, True, False], ("false", "true"), ""),
    ],
)
def test_a_label_has_one_spelling(labels: list[Any], found: tuple[str, ...], said: str) -> None:
    rows = rows_of([{"text": "x", "label": label} for label in labels], "memory")
    assert rows.labels == found
    assert said in summary(rows)


def test_rows_that_cannot_be_used_are_all_named_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    records = [{"text": "x", "label": i % 2} for i in range(40)]
    for i, bad in ((3, -1), (7, -1), (9, None), (11, float("nan"))):
        records[i]["label"] = bad
    records += [{"text": "x", "label": 2}]
    write_jsonl(path, records)
    with pytest.raises(DataError) as refused:
        read_rows(str(path))
    assert "line 4, 8: label -1 stands for none" in str(refused.value)
    assert "line 10, 12: field 'label' holds no label" in str(refused.value)
    assert "4 rows cannot be used" in str(refused.value)
    rows = read_rows(str(path), DataConfig(skip_bad=True))
    assert len(rows) == 37
    assert "left out 4 that cannot be used (line 4, 8, 10, 12)" in summary(rows)
    with pytest.raises(DataError, match="no row can be used"):
        write_jsonl(path, [{"text": "x", "label": None}])
        read_rows(str(path), DataConfig(skip_bad=True))


def test_empty_prompts_are_legal_and_targets_can_be_missing(tmp_path: Path) -> None:
    assert rows_of([{"text": "", "label": 0}], "memory")[0] == Row("", "0")  # real sets hold such rows
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "x"}, {"text": "y", "label": "a"}])
    assert list(read_rows(str(tmp_path / "rows.jsonl"), targets=False)) == [Row("x", ""), Row("y", "a")]
    write_jsonl(tmp_path / "rows.jsonl", [{"sentence": "x", "label": -1, "Notes": "read me"}])
    config = DataConfig(ignore_field=["Notes"])
    assert list(read_rows(str(tmp_path / "rows.jsonl"), config, labels=["0", "1"], targets=False)) == [Row("x", "")]
