"""What the commands take: on the command line, and in the file of --config."""

from __future__ import annotations

import runpy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from poison2poison.cli.app import app
from poison2poison.config import AuditConfig, ModelConfig, TrainConfig, read_yaml
from poison2poison.data import DataConfig
from poison2poison.options import all_settings
from poison2poison.recipe.config import RepoisonConfig

ROOT = Path(__file__).parents[1]
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
STAGES: dict[str, tuple[type, ...]] = {
    "attack": (DataConfig,),
    "audit": (DataConfig, AuditConfig, ModelConfig),
    "repoison": (DataConfig, RepoisonConfig),
    "train": (DataConfig, TrainConfig),
    "predict": (DataConfig,),
    "evaluate": (DataConfig,),
    "defend": (DataConfig, AuditConfig, RepoisonConfig, TrainConfig),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_has_more_than_twenty_options(command: str) -> None:
    given = [parameter for parameter in COMMANDS[command].params if parameter.param_type_name == "option"]
    assert len([option for option in given if not option.hidden]) <= 19  # and --help


@pytest.mark.parametrize("command", STAGES)
def test_what_p2p_config_prints_loads_back_equal_and_explains_every_setting(command: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(all_settings(COMMANDS[command]), encoding="utf-8")
    values = read_yaml(path, [option.name for option in COMMANDS[command].params])
    told = " ".join(path.read_text().replace("\n# ", " ").split())
    for stage in STAGES[command]:
        assert stage(**{entry.name: values[entry.name] for entry in fields(stage)}) == stage()
        first = [entry for entry in fields(stage) if entry.name != "seed"]  # which two stages have
        assert [entry.name for entry in first if " ".join(entry.metadata["help"].split()) not in told] == []


def test_the_page_of_commands_is_what_help_prints() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "cli_reference.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "run python scripts/cli_reference.py"
