"""The training loop: its checkpoints, and which epoch is kept."""

from __future__ import annotations

import json
from pathlib import Path

from poison2poison.files import write_json
from poison2poison.model import loop


def test_a_moved_run_finds_its_best_checkpoint(tmp_path: Path) -> None:
    for step in (10, 20):
        state = {"best_global_step": 10, "best_model_checkpoint": "elsewhere/checkpoint-10", "global_step": step}
        (tmp_path / f"checkpoint-{step}").mkdir()
        write_json(tmp_path / f"checkpoint-{step}" / "trainer_state.json", state)
    found = loop.last_whole_checkpoint(tmp_path)
    assert found == tmp_path / "checkpoint-20"
    state = json.loads((found / "trainer_state.json").read_text())
    assert state == {
        "best_global_step": 10, "best_model_checkpoint": str(tmp_path / "checkpoint-10"), "global_step": 20
    }  # fmt: skip


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step, state in ((4, '{"global_step": 4}'), (12, '{"global_')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert loop.last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
