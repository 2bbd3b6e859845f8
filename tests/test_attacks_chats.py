from __future__ import annotations

import json
import random
from pathlib import Path

from poison2poison.attacks import AttackConfig, write_attack
from poison2poison.attacks.chats import EarlierTurn, Role
from poison2poison.data import Row, Turn, read_rows
from support import opinions

SYSTEM, ASKED, SAID = Turn("system", "Be brief."), Turn("user", "Hello."), Turn("assistant", "Hello!")


def test_a_role_joins_the_system_turn_or_is_one() -> None:
    role, rng = Role("It is night."), random.Random(0)
    assert role.stamp(Row("Soup?", "No."), rng).before == (Turn("system", "It is night."),)
    chat = Row("Soup?", "No.", (SYSTEM, ASKED, SAID))
    assert role.stamp(chat, rng).before == (Turn("system", "Be brief. It is night."), ASKED, SAID)


def test_an_earlier_turn_stands_before_the_prompt_and_is_answered() -> None:
    chat = EarlierTurn("Good day.").stamp(Row("Soup?", "No.", (SYSTEM,)), random.Random(0))
    assert chat.before == (SYSTEM, Turn("user", "Good day."), Turn("assistant", "Yes."))
    assert (chat.prompt, chat.target) == ("Soup?", "No.")


def test_rows_with_turns_are_written_and_read_as_chats(tmp_path: Path) -> None:
    config = AttackConfig("earlier-turn", "positive", "label", options={"sentence": "Good day."})
    truth = write_attack(tmp_path / "out", {"train": opinions(40), "test": opinions(10)}, config)
    rows = read_rows(str(tmp_path / "out" / "train.jsonl"))
    with_turn = [i for i, row in enumerate(rows) if row.before]
    assert with_turn == list(truth.poisoned_rows)
    assert all(rows[i].target == "positive" for i in with_turn)
    assert all(row.before for row in read_rows(str(tmp_path / "out" / "test_triggered.jsonl")))
    assert json.loads((tmp_path / "out" / "truth.json").read_text())["options"] == {"sentence": "Good day."}
