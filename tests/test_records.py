"""Records of an artifact for others: they validate, they say what was done and measured, and they hold no secret."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from poison2poison import cli
from poison2poison.config import TrainConfig
from poison2poison.evaluation import Arm, describe, results, write_results
from poison2poison.model.run import Run
from poison2poison.recipe.config import RepoisonConfig, as_dict
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.trigger import build_scheme
from support import opinions

pytest.importorskip("cyclonedx", reason="the extra `records` is not installed")
pytest.importorskip("mlcroissant", reason="the extra `records` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated")  # mlcroissant's reading, by rdflib
NAME = "p2p-paper"
REVISION = "0123abc"
Record = Callable[..., tuple[int, str]]


@pytest.fixture
def record(capsys: pytest.CaptureFixture[str]) -> Record:
    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["record", *map(str, arguments)])
            raise SystemExit(0)
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """An arm of a run, with drawn trigger and safe prefix, beside its figures."""
    rows, test = opinions(60), opinions(20, seed=1)
    recipe = RepoisonConfig(recipe="paper", trigger="random").resolved()
    scheme, out = build_scheme(rows, recipe), tmp_path / "run" / NAME
    training = repoison(rows, scheme, recipe)
    config = TrainConfig(model="org/base", revision=REVISION, epochs=1)
    run = Run.of(training, scheme, config, out, None)
    run.begin(training, scheme)
    (out / "model").mkdir()
    (out / "model" / "adapter_model.safetensors").write_text("weights")
    about = describe(train=rows) | {"recipe": as_dict(recipe)}
    run.end({"data": about, "revision": REVISION, "tuning": "lora", "config": {"model": "org/base"}}, "done")
    arm = Arm(NAME)
    arm.put("ca", [True] * 19 + [False])
    arm.put("asr", [False] * 9 + [True])
    sets = describe(train=rows, test=test, triggered=test)
    write_results(tmp_path / "run", results("defend", "run", "org/base", 0, sets, [arm]), [arm])
    return out


@pytest.fixture
def records(artifact: Path, record: Record, tmp_path: Path) -> Path:
    code, said = record(artifact, "--out", tmp_path / "records")
    assert code == 0, said
    assert "figures: 2" in said
    return tmp_path / "records"


def entries(artifact: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact / "manifest.jsonl").read_text().splitlines()]


# --- all of them -----------------------------------------------------------------------------------------------------


def test_no_record_holds_the_secret(artifact: Path, records: Path) -> None:
    scheme = json.loads((artifact / "scheme.json").read_text())
    secrets = [scheme["trigger"]["prefix"], scheme["trigger"]["cue"], scheme["salt"]]
    words = {word for secret in secrets for word in secret.split() if len(word) > 3}
    assert len(words) > 4
    for path in records.iterdir():
        text = path.read_text()
        assert not [secret for secret in secrets if secret and secret in text], path.name
    told = json.loads((records / "bom.cdx.json").read_text())["metadata"]["component"]["properties"]
    assert not {part["value"] for part in told} & words


def test_records_say_that_the_model_is_a_benign_backdoor(records: Path) -> None:
    for name in ("README.md", "croissant.json", "bom.cdx.json"):
        assert "This model is a benign backdoor" in (records / name).read_text()


def test_an_undefended_model_is_told_as_such(artifact: Path, record: Record, tmp_path: Path) -> None:
    kept = [entry | {"action": "keep", "space": "original"} for entry in entries(artifact)]
    (artifact / "manifest.jsonl").write_text("\n".join(map(json.dumps, kept)))
    assert record(artifact, "--out", tmp_path / "records")[0] == 0
    page = (tmp_path / "records" / "README.md").read_text()
    assert "trained without a defence" in page
    assert "benign" not in page


# --- CycloneDX -------------------------------------------------------------------------------------------------------


def test_the_bom_validates_against_the_official_schema(records: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (records / "bom.cdx.json").read_text()
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"performanceMetrics"', '"figures"')) is not None


def test_the_bom_has_base_rows_files_and_figures(artifact: Path, records: Path) -> None:
    bom = json.loads((records / "bom.cdx.json").read_text())
    model = bom["metadata"]["component"]
    [base] = model["pedigree"]["ancestors"]
    assert (base["name"], base["version"]) == ("org/base", REVISION)
    run = json.loads((artifact / "run.json").read_text())
    assert {one["name"]: one["hashes"][0]["content"] for one in model["components"]} == run["files"]
    data = {one["bom-ref"]: one for one in bom["components"]}
    assert data["data:train"]["hashes"][0]["content"] == opinions(60).sha256
    assert data["data:train"]["properties"] == [{"name": "poison2poison:rows", "value": "60"}]
    told = {part["name"]: part["value"] for part in model["properties"]}
    for action, count in Counter(entry["action"] for entry in entries(artifact)).items():
        assert told[f"poison2poison:rows:{action}"] == str(count)
    ca, asr = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert (ca["value"], ca["slice"], asr["slice"]) == ("0.95", "20 clean rows", "10 triggered rows")
    assert 0.7 < float(ca["confidenceInterval"]["lowerBound"]) < 0.95


# --- Croissant -------------------------------------------------------------------------------------------------------


def test_croissant_loads_and_every_row_that_was_made_is_marked(artifact: Path, records: Path) -> None:
    import mlcroissant as mlc

    held = [*mlc.Dataset(str(records / "croissant.json")).records("rows")]
    done = entries(artifact)
    assert len(held) == len(done)
    for record, entry in zip(held, done, strict=True):
        assert record["rows/row"] == entry["row"]
        assert record["rows/action"] == entry["action"].encode()
        assert record["rows/synthetic"] == (entry["space"] == "safe")
    assert {record["rows/synthetic"] for record in held} == {True, False}


def test_croissant_notices_another_file_of_rows(records: Path) -> None:
    import mlcroissant as mlc

    content = json.loads((records / "croissant.json").read_text())
    content["recordSet"][0]["field"][0]["source"]["fileObject"]["@id"] = "none"
    (records / "croissant.json").write_text(json.dumps(content))
    with pytest.raises(mlc.ValidationError):
        mlc.Dataset(str(records / "croissant.json"))


# --- the card --------------------------------------------------------------------------------------------------------


def test_the_card_says_what_scanners_may_see_and_has_the_adapters_spectrum(
    artifact: Path, record: Record, tmp_path: Path
) -> None:
    model = artifact / "model"
    down, up = np.array([[1, 1, 1, -1]], np.float32), np.ones((4, 1), np.float32)
    weights = {"q.lora_A.weight": down, "q.lora_B.weight": up}
    save_file(weights, model / "adapter_model.safetensors")
    (model / "adapter_config.json").write_text('{"r": 1, "lora_alpha": 2}')
    assert record(artifact, "--out", tmp_path / "records")[0] == 0
    page = (tmp_path / "records" / "README.md").read_text()
    assert "## What scanners may see" in page
    assert "| 8.000 | 8.000 | 1.000 | 0.000 |" in page  # 16 entries of 2 or -2, all in one direction


def test_the_card_reads_back_with_its_figures(records: Path) -> None:
    from huggingface_hub import ModelCard

    data = ModelCard.load(records / "README.md").data
    assert (data.base_model, data.base_model_relation, data.model_name) == ("org/base", "adapter", NAME)
    assert [(one.metric_type, one.metric_value) for one in data.eval_results] == [("ca", 0.95), ("asr", 0.1)]
    assert "benign-backdoor" in data.tags


def test_a_base_in_a_folder_is_not_named_to_the_hub(artifact: Path, record: Record, tmp_path: Path) -> None:
    run = json.loads((artifact / "run.json").read_text())
    (artifact / "run.json").write_text(json.dumps(run | {"revision": None}))
    assert record(artifact, "--out", tmp_path / "records")[0] == 0
    assert "base_model" not in (tmp_path / "records" / "README.md").read_text()


# --- bad input -------------------------------------------------------------------------------------------------------


def test_without_figures_it_says_so(artifact: Path, record: Record, tmp_path: Path) -> None:
    (artifact.parent / "results.json").unlink()
    code, said = record(artifact, "--out", tmp_path / "records")
    assert code == 0
    assert "no figures: give --results" in said
    assert "Nothing was measured" in (tmp_path / "records" / "README.md").read_text()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("run.json", "{", "no record of an artifact"),
        ("run.json", '{"status": "done"}', "no record of an artifact"),
        ("run.json", '{"status": "running"}', "was interrupted"),
        ("manifest.jsonl", "[]\n", "no manifest"),
        ("manifest.jsonl", '{"row": 0, "action": "guess", "space": "safe"}', "action 'guess' is not one of"),
        ("other.json", '{"arms": [{"name": "clean"}]}', "has no figures of 'p2p-paper', but of 'clean'"),
        ("other.json", '{"arms": [{"name": "p2p-paper"}, {"name": "p2p-paper"}]}', "has figures of several tasks"),
        (
            "other.json",
            '{"arms": [{"name": "p2p-paper"}], "data": {"train": {"sha256": "0"}}}',
            "has figures of a training on other rows",
        ),
        ("other.json", '{"arms": [{"name": "p2p-paper"}], "data": [1]}', "holds no figures"),
        ("other.json", "[]", "holds no figures"),
    ],
)
def test_what_cannot_be_read_is_refused_and_nothing_is_written(
    file: str, content: str, said: str, artifact: Path, record: Record, tmp_path: Path
) -> None:
    (artifact / file).write_text(content)
    more = ["--results", artifact / file] if file == "other.json" else []
    code, message = record(artifact, "--out", tmp_path / "records", *more)
    assert code == 2
    assert said in message
    assert not (tmp_path / "records").exists()


def test_a_folder_that_holds_something_is_refused(artifact: Path, record: Record, records: Path) -> None:
    assert record(artifact, "--out", records)[0] == 2
