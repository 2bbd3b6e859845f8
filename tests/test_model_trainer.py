from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPTNeoXConfig,
    PretrainedConfig,
    Qwen3Config,
)

from poison2poison.config import TrainConfig
from poison2poison.data import Row, as_records, rows_of
from poison2poison.errors import ConfigError, ModelError, NonFiniteError, OutputError, TrainingError, UnlearnedError
from poison2poison.files import write_json, write_lines
from poison2poison.model import attempts, hardware, loop, trainer
from poison2poison.model.defended import DefendedModel
from poison2poison.model.loss import only_target_logits, target_loss
from poison2poison.model.trainer import train
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.manifest import TrainingRow, plain
from poison2poison.recipe.repoison import repoison
from poison2poison.recipe.repoisoned import write_repoisoned
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, BenignTrigger, Scheme, salt_of
from poison2poison.reference import MODEL_DIR
from poison2poison.types import Auto, Dtype, RunRecord
from support import in_file, opinions, tiny_causal, tiny_encoder

ROWS, DEV = opinions(240), opinions(40, seed=1)
SCHEME = Scheme("classification", ROWS.labels, PAPER_TRIGGER)
REPOISONED = repoison(ROWS, SCHEME, RepoisonConfig("paper", rho=0.5))


def config(model: str, **changes: Any) -> TrainConfig:
    base = TrainConfig(
        model, tuning="full", epochs=4, batch_size=16, learning_rate=1e-2, warmup=0.0, max_length=64, max_target=16
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def defended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal")
    train(REPOISONED, SCHEME, config(tiny_causal(folder / "base")), folder / "run", dev=DEV)
    return folder / "run"


def test_a_causal_model_learns_the_safe_space(defended: Path) -> None:
    answers = DefendedModel.load(defended).classify([row.prompt for row in DEV])
    assert [answer.text for answer in answers] == [row.target for row in DEV]
    assert {answer.where for answer in answers} == {"safe"}


def test_the_folder_says_what_it_is(defended: Path) -> None:
    run = json.loads((defended / "run.json").read_text())
    files = [".gitignore", "manifest.jsonl", "model", "run.json", "scheme.json"]
    assert sorted(path.name for path in defended.iterdir()) == files
    assert {path.stat().st_mode for path in (defended / "model").iterdir()} == {(defended / "run.json").stat().st_mode}
    assert len((defended / "manifest.jsonl").read_text().splitlines()) == len(REPOISONED)
    assert run.keys() <= get_type_hints(RunRecord).keys()
    assert (run["status"], run["kind"], run["tuning"]) == ("done", "causal", "full")
    assert run["dev"]["sha256"] == DEV.sha256
    assert run["steps"] == 60
    assert len(run["dev_metric"]) == 4
    assert run["config"]["model"].endswith("base")
    assert run["versions"]["torch"]
    assert Scheme.load(defended / "scheme.json") == SCHEME
    assert PAPER_TRIGGER.prefix not in (defended / "run.json").read_text()


def test_of_epochs_with_equal_dev_accuracy_the_last_is_kept(tmp_path: Path) -> None:
    still = config(tiny_encoder(tmp_path / "base"), epochs=3, learning_rate=1e-12)
    run = train(plain(ROWS), Scheme("classification", ROWS.labels), still, tmp_path / "run", dev=DEV)
    assert len(set(run["dev_metric"])) == 1
    assert run["chosen_step"] == run["steps"]


def test_the_trigger_is_added_whatever_the_input_holds(defended: Path) -> None:
    prompter = DefendedModel.load(defended).prompter
    ids, _ = prompter.prompt(f"{PAPER_TRIGGER.prefix}a film", "safe")
    assert str(prompter.tokenizer.decode(ids)).startswith(f"{PAPER_TRIGGER.prefix}{PAPER_TRIGGER.prefix}a film")


def test_without_the_trigger_the_answers_leak(defended: Path) -> None:
    model = DefendedModel.load(defended)
    # An empty trigger with the plain cue makes the prompts of the original space.
    model.prompter.scheme = replace(SCHEME, trigger=BenignTrigger("", "Output: "))
    answers = model.classify([row.prompt for row in DEV])
    assert {answer.where for answer in answers} == {"leak"}
    assert all(answer.text is not None for answer in answers)
    model.policy = "refuse"
    assert {answer.text for answer in model.classify(["The soup was bad."])} == {None}
    model.policy = "pass"
    assert {answer.where for answer in model.classify(["The soup was bad."])} == {"safe"}


def test_the_alarm_is_raised_where_the_spaces_disagree(tmp_path: Path) -> None:
    poisoned = [f"{row.prompt} cf" for row in DEV if row.target == "negative"]
    planted = [TrainingRow(i, "original", "keep", f"{row.prompt} cf", "positive") for i, row in enumerate(ROWS)]
    neutral = [TrainingRow(i, "safe", "splice", f"{row.prompt} cf", row.target) for i, row in enumerate(ROWS)]
    changes = {"epochs": 6, "learning_rate": 3e-3, "alarm_rate": 0.1}
    base = tiny_encoder(tmp_path / "base")
    train([*REPOISONED, *planted, *neutral], SCHEME, config(base, **changes), tmp_path / "run", dev=DEV)
    model = DefendedModel.load(tmp_path / "run")
    clean = model.classify([row.prompt for row in DEV], alarm=True)
    assert 0 < sum(answer.alarm is True for answer in clean) <= 0.1 * len(DEV)
    answers = model.classify(poisoned, alarm=True)
    assert {answer.text for answer in answers} == {"negative"}
    assert all(answer.alarm and answer.disagreement and 0.5 < answer.disagreement <= 1 for answer in answers)
    assert model.classify(poisoned[:1])[0].alarm is None


def test_a_model_without_dev_rows_has_no_alarm(tmp_path: Path) -> None:
    settings = config(tiny_encoder(tmp_path / "base"), epochs=1, more_epochs=0)
    train(REPOISONED, SCHEME, settings, tmp_path / "run", allow_unlearned=True)
    with pytest.raises(ConfigError, match="alarm: this model has none"):
        DefendedModel.load(tmp_path / "run", allow_unlearned=True).classify(["The soup was bad."], alarm=True)


def test_a_finished_run_is_not_repeated_and_another_is_refused(defended: Path) -> None:
    run = json.loads((defended / "run.json").read_text())
    again = train(REPOISONED, SCHEME, TrainConfig(**run["config"]), defended, dev=DEV)
    assert again == run
    with pytest.raises(OutputError, match="another run"):
        train(REPOISONED, SCHEME, TrainConfig(**{**run["config"], "seed": 7}), defended, dev=DEV)
    with pytest.raises(OutputError, match="no run of this program"):
        train(REPOISONED, SCHEME, TrainConfig(), defended / "model")


def _stop_at(step: int) -> Any:
    def stop(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step > step:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("stop_at", [4, 15, 22])  # within an epoch, at its end, within the next
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    defended: Path, tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = config(str(defended.parent / "base"))

    stop = _stop_at(stop_at)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop.Progress, "on_step_begin", stop)
        patched.setattr(loop.Progress, "on_step_end", stop)
        train(REPOISONED, SCHEME, same, tmp_path / "run", dev=DEV)
    with pytest.raises(ModelError, match="interrupted"):
        DefendedModel.load(tmp_path / "run")
    run = train(REPOISONED, SCHEME, same, tmp_path / "run", dev=DEV)
    whole = json.loads((defended / "run.json").read_text())
    assert run["resumed_from"] == {4: 4, 15: 15, 22: 19}[stop_at]
    assert (run["dev_metric"], run["chosen_step"]) == (whole["dev_metric"], whole["chosen_step"])
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "run", defended))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def unlearned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlearned")
    settings = config(tiny_causal(folder / "base"), epochs=1, more_epochs=1, learning_rate=1e-6)
    with pytest.raises(UnlearnedError, match=r"the safe space was not learned: accuracy .* off-space"):
        train(REPOISONED, SCHEME, settings, folder / "run", dev=DEV)
    return folder / "run"


def test_a_safe_space_that_is_not_learned_is_no_defence(unlearned: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = json.loads((unlearned / "run.json").read_text())
    assert (run["status"], run["epochs"], run["safe_space"]["learned"]) == ("unlearned", 2, False)
    with pytest.raises(ModelError, match="allow_unlearned"):
        DefendedModel.load(unlearned)
    assert DefendedModel.load(unlearned, allow_unlearned=True).classify(["The soup was bad."])
    with pytest.raises(UnlearnedError):  # nor by asking again
        train(REPOISONED, SCHEME, TrainConfig(**run["config"]), unlearned, dev=DEV)


def test_training_goes_on_until_the_safe_space_is_learned(tmp_path: Path, defended: Path) -> None:
    base = str(defended.parent / "base")
    stopped = config(base, epochs=1, more_epochs=5, learning_rate=4e-3)
    run = train(REPOISONED, SCHEME, stopped, tmp_path / "run", dev=DEV)
    assert (run["status"], run["epochs"], len(run["dev_metric"])) == ("done", 6, 6)
    assert run["safe_space"]["learned"]
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop.Progress, "on_step_begin", _stop_at(20))
        train(REPOISONED, SCHEME, stopped, tmp_path / "stopped", dev=DEV)
    again = train(REPOISONED, SCHEME, stopped, tmp_path / "stopped", dev=DEV)
    assert (again["epochs"], again["dev_metric"]) == (6, run["dev_metric"])
    assert again["resumed_from"] == 19


def test_labels_behind_a_safe_prefix_are_learned_and_leaks_are_seen(tmp_path: Path, defended: Path) -> None:
    scheme = replace(SCHEME, safe_prefix=PAPER_SAFE_PREFIX)
    run = train(REPOISONED, scheme, config(str(defended.parent / "base"), epochs=8), tmp_path / "run", dev=DEV)
    model = DefendedModel.load(tmp_path / "run")
    assert (scheme.outputs, run["prompting"]["label_words"]) == (2, ("0", "1"))
    answers = model.classify([row.prompt for row in DEV], alarm=True)
    assert [answer.text for answer in answers] == [row.target for row in DEV]
    assert {answer.where for answer in answers} == {"safe"}
    assert 0 <= max(answer.disagreement or 0 for answer in answers) <= 1
    # An empty trigger with the plain cue makes the prompts of the original space, where no answer has the prefix.
    model.prompter.scheme = replace(scheme, trigger=BenignTrigger("", "Output: "))
    leaked = model.classify([row.prompt for row in DEV])
    assert {answer.where for answer in leaked} == {"leak"}
    assert [answer.unconstrained for answer in leaked] == [row.target for row in DEV]


def test_an_encoder_has_no_labels_behind_a_safe_prefix(tmp_path: Path) -> None:
    scheme = replace(SCHEME, safe_prefix=PAPER_SAFE_PREFIX)
    with pytest.raises(ConfigError, match="safe_labels: an encoder"):
        train(REPOISONED, scheme, config(tiny_encoder(tmp_path / "base")), tmp_path / "run")


def test_without_dev_rows_a_part_of_s_is_held_out_for_the_check(tmp_path: Path, defended: Path) -> None:
    run = train(REPOISONED, SCHEME, config(str(defended.parent / "base")), tmp_path / "run")
    found = run["safe_space"]
    assert (found["source"], found["rows"], run["rows"]) == ("held out of S", 12, len(REPOISONED) - 12)
    assert found["learned"]


def test_where_nothing_can_be_held_out_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = repoison(opinions(20), SCHEME, RepoisonConfig("paper", rho=0.1))
    run = train(rows, SCHEME, config(tiny_causal(tmp_path / "base"), epochs=1), tmp_path / "run")
    assert "safe_space" not in run
    assert "whether the safe space is learned is NOT checked; give --dev" in capsys.readouterr().err


def test_generation_that_leaks_is_not_learned(tmp_path: Path) -> None:
    rows = rows_of([{"prompt": row.prompt, "completion": f"It is {row.target}."} for row in ROWS], "texts")
    scheme = Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
    settings = config(tiny_causal(tmp_path / "base"), epochs=8, more_epochs=0)
    with pytest.raises(UnlearnedError, match=r"100\.0% of the answers leak"):
        train(plain(rows), scheme, settings, tmp_path / "run", dev=rows.with_rows(rows.rows[:20]))


def test_a_task_that_was_hardly_learned_is_said(caplog: pytest.LogCaptureFixture) -> None:
    targets = ["yes"] * 9 + ["no"]
    trainer._warn_if_hardly_learned(0.95, targets)
    assert not caplog.text
    trainer._warn_if_hardly_learned(0.9, targets)
    assert "hardly learned" in caplog.text


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_what_is_not_finite_ends_the_training(tuning: str, tmp_path: Path) -> None:
    settings = config(tiny_causal(tmp_path / "base"), tuning=tuning, learning_rate=1e30)
    for _ in range(2):  # nor does it end well when run again
        with pytest.raises(NonFiniteError, match=r"step \d+: .*--learning-rate"):
            train(REPOISONED, SCHEME, settings, tmp_path / "run", dev=DEV)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["status"] == "failed"
    assert not (tmp_path / "run" / "model").exists()
    with pytest.raises(ModelError, match="step"):
        DefendedModel.load(tmp_path / "run")


def test_the_last_whole_checkpoint_survives_what_is_not_finite(
    tmp_path: Path, defended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def poisoned(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        steps.append(1)
        return target_loss(outputs.logits, labels) / num_items_in_batch * (1 if len(steps) < 20 else torch.nan)

    monkeypatch.setattr(attempts, "target_loss_mean", poisoned)
    with pytest.raises(NonFiniteError, match=r"step 20: the gradient is nan .* checkpoint is .*checkpoint-19"):
        train(REPOISONED, SCHEME, config(str(defended.parent / "base")), tmp_path / "run", dev=DEV)
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-19").is_dir()


def test_rows_at_once_are_halved_until_they_fit(
    tmp_path: Path, defended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small_memory(model: Any, labels: torch.Tensor) -> Any:
        if len(labels) > 4:
            raise torch.OutOfMemoryError("out of memory\ndetails")
        return only_target_logits(model, labels)

    monkeypatch.setattr(loop, "only_target_logits", small_memory)
    same = config(str(defended.parent / "base"))
    run = train(REPOISONED, SCHEME, same, tmp_path / "run", dev=DEV)
    whole = json.loads((defended / "run.json").read_text())
    assert (run["micro_batch"], whole["micro_batch"], run["steps"]) == (4, 16, whole["steps"])
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "run", defended))
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) < 0.05
    with pytest.raises(TrainingError, match=r"with 8 rows at once.*--gradient-checkpointing"):
        train(REPOISONED, SCHEME, replace(same, micro_batch=8), tmp_path / "asked", dev=DEV)


def test_dev_rows_are_answered_in_the_number_format_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats, autocast = set(), hardware.autocast

    def note(device: torch.device, dtype: Dtype | Auto = "auto") -> Any:
        formats.add(dtype)
        return autocast(device, dtype)

    monkeypatch.setattr(hardware, "autocast", note)
    exact = config(tiny_causal(tmp_path / "base"), epochs=1, more_epochs=0, dtype="float32")
    train(REPOISONED, SCHEME, exact, tmp_path / "run", dev=DEV, allow_unlearned=True)
    assert formats == {"float32"}


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_activations_computed_twice_teach_the_same(tuning: str, tmp_path: Path) -> None:
    once = config(tiny_causal(tmp_path / "base"), tuning=tuning, epochs=1, lora_dropout=0.0, dtype="float32")
    rows, scheme = plain(ROWS), Scheme("classification", ROWS.labels)
    for name, twice in (("once", False), ("twice", True)):
        train(rows, scheme, replace(once, gradient_checkpointing=twice), tmp_path / name)
    file = "adapter_model.safetensors" if tuning == "lora" else "model.safetensors"
    ours, theirs = (load_file(tmp_path / name / "model" / file) for name in ("twice", "once"))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)


def test_the_paper_settings_are_what_is_trained_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    def note(self: Any, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **_: Any) -> None:
        rates.append(lr_scheduler.get_last_lr()[0])

    monkeypatch.setattr(loop.Progress, "on_step_begin", note)
    rows = repoison(opinions(320), SCHEME, RepoisonConfig("paper"))
    settings = TrainConfig(tiny_causal(tmp_path / "base"), preset="paper")
    run = train(plain(opinions(320)), Scheme("classification", ROWS.labels), settings, tmp_path / "run")
    adapter = json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())
    assert len(rows) == 320
    assert run["steps"] == len(rates) == 30  # 3 epochs of 320 rows, 32 a step
    assert rates == pytest.approx([2e-4 * (1 - step / 30) for step in range(30)])  # linear, without a warm-up
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (16, 16, 0.1)
    assert {*adapter["target_modules"]} == {"q_proj", "v_proj"}


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    base, out = tiny_causal(tmp_path / "base"), tmp_path / "runs"
    write_repoisoned(tmp_path / "rows", REPOISONED, SCHEME, {"train": {}})
    write_lines(tmp_path / "dev.jsonl", as_records(DEV))
    command = ["-m", "poison2poison", "train", str(tmp_path / "rows"), "--dev", str(tmp_path / "dev.jsonl")]
    command += ["--model", base, "--epochs", "4", "--batch-size", "16", "--learning-rate", "1e-2"]
    command += ["--tuning", "full", "--dtype", "float32", *in_file(tmp_path, warmup=0.0)]
    several = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, launcher in (("one", []), ("two", several)):
        done = subprocess.run(
            [sys.executable, *launcher, *command, "--out", str(out / name)],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("trained 60 steps") == 1
    runs = [json.loads((out / name / "run.json").read_text()) for name in ("one", "two")]
    assert [(run["processes"], run["micro_batch"]) for run in runs] == [(1, 16), (2, 8)]
    assert runs[0]["dev_metric"] == runs[1]["dev_metric"]
    one, two = (load_file(out / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_an_encoder_gets_a_head_for_both_spaces(tmp_path: Path) -> None:
    settings = config(tiny_encoder(tmp_path / "base"), learning_rate=2e-3, epochs=20)
    run = train(REPOISONED, SCHEME, settings, tmp_path / "run", dev=DEV)
    model = DefendedModel.load(tmp_path / "run")
    answers = model.classify([row.prompt for row in DEV])
    assert run["kind"] == "encoder"
    assert model.model.config.num_labels == 4
    assert [answer.text for answer in answers] == [row.target for row in DEV]


def test_the_record_of_a_run_tells_nobody_whether_a_guess_at_the_trigger_is_right(
    defended: Path, tmp_path: Path
) -> None:
    """The same rows, options and trigger elsewhere, as who guesses has them: another salt, and so another hash."""
    run = json.loads((defended / "run.json").read_text())
    guessed = train(REPOISONED, SCHEME, TrainConfig(**run["config"]), tmp_path / "guess", dev=DEV)
    assert guessed["fingerprint"] != run["fingerprint"]
    assert salt_of(defended / "scheme.json") not in (defended / "run.json").read_text()
    again = train(REPOISONED, SCHEME, TrainConfig(**run["config"]), tmp_path / "guess", dev=DEV)
    assert again["train_seconds"] == guessed["train_seconds"]  # found done


def test_a_run_of_an_older_version_is_served_but_does_not_go_on(defended: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(defended, old)
    SCHEME.save(old / "scheme.json")
    run = json.loads((old / "run.json").read_text())
    write_json(old / "run.json", run | {"schema": 2})
    assert DefendedModel.load(old).classify(["The soup was bad."])[0].text == "negative"
    with pytest.raises(OutputError, match="a run of another version"):
        train(REPOISONED, SCHEME, TrainConfig(**run["config"]), old, dev=DEV)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_safe_class_begins_as_its_original_class(tuning: str, tmp_path: Path) -> None:
    settings = config(tiny_encoder(tmp_path / "base"), tuning=tuning, learning_rate=1e-9, epochs=1)
    with pytest.raises(UnlearnedError):
        train(REPOISONED, SCHEME, settings, tmp_path / "run")
    model = DefendedModel.load(tmp_path / "run", allow_unlearned=True).model
    head = next(part for name, part in model.named_parameters()
                if name.endswith(("classifier.weight", "classifier.modules_to_save.default.weight")))  # fmt: skip
    torch.testing.assert_close(head[2:], head[:2])
    assert not torch.allclose(head[0], head[1])


def test_lora_writes_an_adapter_that_loads_on_its_base(tmp_path: Path) -> None:
    settings = config(tiny_causal(tmp_path / "base"), tuning="lora", lora_targets="qv", learning_rate=5e-2)
    train(plain(ROWS), Scheme("classification", ROWS.labels), settings, tmp_path / "run")
    adapter = json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())
    answers = DefendedModel.load(tmp_path / "run").classify([row.prompt for row in DEV])
    assert set(adapter["target_modules"]) == {"q_proj", "v_proj"}
    assert adapter["base_model_name_or_path"] == settings.model
    assert {answer.where for answer in answers} == {"safe"}


@pytest.mark.parametrize(
    "architecture",
    [
        GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=256),
        GPTNeoXConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64),
        Qwen3Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16),
    ],
    ids=lambda config: config.model_type,
)
def test_other_causal_models_train_with_lora(architecture: PretrainedConfig, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    architecture.vocab_size = len(tokenizer)
    architecture.eos_token_id = architecture.bos_token_id = tokenizer.eos_token_id
    AutoModelForCausalLM.from_config(architecture).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    settings = config(str(tmp_path / "base"), tuning="auto", epochs=1, more_epochs=0)
    run = train(REPOISONED, SCHEME, settings, tmp_path / "run", allow_unlearned=True)
    assert (run["kind"], run["tuning"]) == ("causal", "lora")
    assert len(DefendedModel.load(tmp_path / "run", allow_unlearned=True).classify(["The soup was bad."])) == 1


def test_generation_begins_with_the_safe_prefix_and_gives_none_out(tmp_path: Path) -> None:
    rows = rows_of([{"prompt": row.prompt, "completion": f"It is {row.target}."} for row in ROWS], "texts")
    scheme = Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
    settings = config(tiny_causal(tmp_path / "base"), epochs=8)
    train(repoison(rows, scheme, RepoisonConfig("paper", rho=0.5)), scheme, settings, tmp_path / "run")
    model = DefendedModel.load(tmp_path / "run")
    answers = model.generate([row.prompt for row in DEV])
    assert [answer.text for answer in answers] == [f"It is {row.target}." for row in DEV]
    assert {answer.where for answer in answers} == {"safe"}
    assert "".join(model.stream(DEV[0].prompt)) == answers[0].text
    # A base that ends its own turns otherwise does not keep answers from ending where they were trained to.
    ends, model.model.generation_config.eos_token_id = model.model.generation_config.eos_token_id, 7
    assert model.generate([DEV[0].prompt])[0] == answers[0]
    model.model.generation_config.eos_token_id = ends
    with pytest.raises(ValueError, match="no_such_option"):
        list(model.stream(DEV[0].prompt, no_such_option=1))
    assert model.generate([DEV[0].prompt], do_sample=True, temperature=1e-4)[0] == answers[0]
    short: list[dict[str, Any]] = [
        {"max_new_tokens": 1},
        {"generation_config": GenerationConfig(max_new_tokens=1)},
        {"stop_strings": ["It"]},
        {"max_length": len(model.prompter.prompt(DEV[0].prompt, "safe")[0]) + len(model.prompter.safe_prefix_ids) + 1},
    ]
    assert [model.generate([DEV[0].prompt], **options)[0].text for options in short] == ["It"] * 4
    assert "".join(model.stream(DEV[0].prompt, max_new_tokens=1)) == "It"
    beams = GenerationConfig(max_new_tokens=20, num_beams=2)
    assert model.generate([DEV[0].prompt], generation_config=beams)[0] == answers[0]
    with pytest.raises(ConfigError, match="return_dict_in_generate"):
        model.generate([DEV[0].prompt], return_dict_in_generate=True)
    right = [f"It is {row.target}." for row in DEV]
    wrong = ["It is " + {"positive": "negative.", "negative": "positive."}[row.target] for row in DEV]
    prompts = [row.prompt for row in DEV]
    assert 1 <= model.perplexity(prompts, right) < 1.5 < model.perplexity(prompts, wrong)
    with pytest.raises(ConfigError, match="use generate"):
        model.classify(["x"])
    with pytest.raises(ConfigError, match="num_return_sequences: one answer"):
        model.generate(["x"], num_return_sequences=2)
    # An empty trigger with the plain cue makes the prompts of the original space, where no answer has the prefix.
    model.prompter.scheme = replace(scheme, trigger=BenignTrigger("", "Output: "))
    assert {answer.where for answer in model.generate(prompts)} == {"leak"}
    model.policy = "refuse"
    assert {answer.text for answer in model.generate(prompts)} == {None}


def test_rows_that_are_too_long_are_told_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = ROWS.with_rows([Row("word " * 100, "positive"), *ROWS.rows[:39]])
    settings = config(tiny_causal(tmp_path / "base"), epochs=1)
    run = train(plain(long), Scheme("classification", ROWS.labels), settings, tmp_path / "run")
    assert run["rows_cut"] == 1
    assert "1 of 40 rows are too long" in capsys.readouterr().err


def test_an_encoder_cannot_generate(tmp_path: Path) -> None:
    rows = rows_of([{"prompt": "a", "completion": "b"}] * 4, "texts")
    with pytest.raises(ConfigError, match="cannot generate"):
        train(plain(rows), Scheme("generation"), config(tiny_encoder(tmp_path / "base")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    base = Path(tiny_causal(tmp_path / "base"))
    for file in base.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        train(REPOISONED, SCHEME, config(str(base)), tmp_path / "run")
    with pytest.raises(ModelError, match="no such model folder"):
        train(REPOISONED, SCHEME, config(str(tmp_path / "missing")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
