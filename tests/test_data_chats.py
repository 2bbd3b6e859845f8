"""Chats: what is asked, what is answered, and what stands around."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from poison2poison.data import (
    Row,
    Turn,
    as_row,
    read_rows,
    rows_of,
    summary,
)
from poison2poison.data.chats import Draft, UnusableError, chat, refuse_half_characters, with_system
from poison2poison.errors import DataError
from records import said, told, turns, write_jsonl


def test_a_row_says_nothing_twice() -> None:
    record = {"conversations": told("system: s", "human: p", "gpt: t"), "system": "s", "idx": 1}
    assert rows_of([record], "memory")[0].before == turns("system: s")
    asked = {"from": "human", "content": None, "value": "p"}
    thought = {"role": "assistant", "content": "t", "reasoning_content": "r"}
    first, second = {"messages": [asked, thought]}, {"messages": said("user: p", "assistant: t")}
    rows = rows_of([first, second], "memory")
    assert rows[0] == rows[1]
    assert "'reasoning_content' of turns is not read (1 rows)" in summary(rows)


def test_an_input_may_be_a_chat() -> None:
    assert as_row("p") == Row("p", "")
    assert as_row(said("system: s", "user: a", "assistant: b", "user: p")) == Row(
        "p", "", turns("system: s", "user: a", "assistant: b")
    )
    for wrong, why in (
        (said("system: s"), "has no user turn"),
        (said("user: p", "assistant: t"), "is answered already"),
        ("cut \ud83d", "half a character"),
        (5, "neither a text nor a chat"),
    ):
        with pytest.raises(DataError, match=f"input: .*{why}"):
            as_row(wrong)  # type: ignore[arg-type]


def test_chats_without_an_answer_are_inputs(tmp_path: Path) -> None:
    asked, answer = {"role": "user", "content": "p"}, {"role": "assistant", "content": "t"}
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": [asked]}, {"messages": [asked, answer]}])
    assert [row.prompt for row in read_rows(str(tmp_path / "rows.jsonl"), targets=False)] == ["p", "p"]
    for held in ([], [answer]):
        write_jsonl(tmp_path / "rows.jsonl", [{"messages": held}])
        with pytest.raises(DataError, match=r"must list turns|no user turn before"):
            read_rows(str(tmp_path / "rows.jsonl"), targets=False)


def read(*given: str, answered: bool = True, **more: Any) -> Draft:
    return chat(said(*given), "messages", answered=answered, **more)


def test_the_last_answer_is_learned_and_what_stands_around_it_is_read() -> None:
    found = read("system: s", "user: a", "assistant: b", "user: p", "tool: 3", "assistant: t")
    assert (found.prompt, found.target) == ("p", "t")
    assert found.before == turns("system: s", "user: a", "assistant: b")
    assert found.after == turns("tool: 3")
    assert found.remarks == ("earlier answers are read and not trained on",)


def test_turns_behind_the_answer_are_left_out_and_said() -> None:
    found = read("user: p", "assistant: t", "user: more")
    assert (found.prompt, found.target, found.after) == ("p", "t", ())
    assert found.remarks == ("turns behind the last answer that counts are left out",)


def test_an_answer_of_no_weight_is_passed_over() -> None:
    asked = [*said("user: p", "assistant: t"), {"role": "assistant", "content": "no", "weight": 0.0}]
    assert chat(asked, "messages").target == "t"
    asked[-1]["weight"] = "heavy"  # type: ignore[index]
    assert chat(asked, "messages").target == "no"


def test_without_an_answer_the_last_user_turn_is_what_is_asked() -> None:
    found = read("user: a", "assistant: b", "user: p", answered=False)
    assert (found.prompt, found.target) == ("p", None)
    assert read("user: p", "assistant: t", answered=False).target == "t"
    with pytest.raises(UnusableError, match="no answer of the assistant that counts"):
        read("user: p")


@pytest.mark.parametrize("name", ["human", "prompter", "User "])
def test_roles_have_many_names(name: str) -> None:
    assert chat([{"from": name, "value": "p"}, {"from": "gpt", "value": "t"}], "conversations").prompt == "p"


def test_tools_on_offer_stand_behind_the_system_turn() -> None:
    for given, system in (("system: s", 's\n\nTools: [{"name": "find"}]'), ("user: a", 'Tools: [{"name": "find"}]')):
        found = read(given, "user: p", "assistant: t", tools=[{"name": "find"}])
        assert found.before[0] == Turn("system", system)
    assert with_system(turns("user: a"), "") == turns("user: a")


def test_a_call_of_a_tool_is_its_json_as_it_was_written() -> None:
    call = {"function": {"name": "find", "arguments": '{"hue":  "red"}'}}
    asked = [*said("user: p"), {"role": "assistant", "content": "So:", "tool_calls": [call]}]
    assert chat(asked, "messages").target == 'So:\n{"name": "find", "arguments": {"hue":  "red"}}'
    asked[-1] = {"role": "assistant", "function_call": {"name": "find", "arguments": {"hue": "é"}}}
    assert chat(asked, "messages").target == '{"name": "find", "arguments": {"hue": "é"}}'
    asked[-1] = {"role": "assistant", "tool_calls": [{"function": {}}]}
    with pytest.raises(UnusableError, match="turn 2: a call of a tool without its name"):
        chat(asked, "messages")


@pytest.mark.parametrize(("text", "half"), [("cut \ud83d", True), ("whole \U0001f600", False), ("plain", False)])
def test_half_a_character_is_refused(text: str, half: bool) -> None:
    if half:
        with pytest.raises(UnusableError, match="field 'text' holds half a character"):
            refuse_half_characters(text, "text")
    else:
        refuse_half_characters(text, "text")
