"""What another trainer made of an export becomes an artifact folder, or is refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from poison2poison.cli import main
from poison2poison.config import ModelConfig, TrainConfig
from poison2poison.errors import DataError, ModelError, P2PError, SchemeError, UnlearnedError
from poison2poison.export import export
from poison2poison.files import write_json
from poison2poison.model.adopt import adopt
from poison2poison.model.callback import SafeSpaceCallback
from poison2poison.model.defended import DefendedModel
from poison2poison.model.trainer import train
from poison2poison.recipe.repoisoned import read_repoisoned
from poison2poison.recipe.scheme import BenignTrigger, Scheme, salt_of
from support import CHATML, SHAPE, opinions, repoisoned, tiny_causal, with_template

trl = pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL

ROWS, DEV = opinions(240), opinions(40, seed=1)


def with_trl(folder: Path, *, callback: bool = False, **changes: Any) -> Any:
    """Train as `trl sft --config sft.yaml` does, with `changes`."""
    from trl.scripts.sft import make_parser

    given = ["--config", str(folder / "sft.yaml"), "--use_cpu", "true"]
    given += [word for name, value in changes.items() for word in (f"--{name}", str(value))]
    script, arguments, model, _ = make_parser().parse_args_and_config(args=given, fail_with_unknown_args=False)
    trainer = trl.SFTTrainer(
        model=model.model_name_or_path,
        args=arguments,
        train_dataset=load_dataset(script.dataset_name)["train"],
        peft_config=trl.get_peft_config(model),
    )
    if callback:
        trainer.add_callback(SafeSpaceCallback(folder, [*DEV], trainer))
    trainer.train()
    trainer.save_model(arguments.output_dir)
    return trainer


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, an export for TRL, and what TRL left after two steps."""
    work = tmp_path_factory.mktemp("work")
    repoisoned(ROWS, work / "rows")
    export(work / "rows", "trl", TrainConfig(tiny_causal(work / "base")), work / "mine")
    with_trl(work / "mine", max_steps=2)
    return work


@pytest.fixture(scope="module")
def learned(work: Path) -> Path:
    """A whole model that learned its safe space, on the tokens of the export."""
    config = TrainConfig(str(work / "base"), tuning="full", epochs=4, batch_size=16, learning_rate=1e-2, warmup=0.0)
    rows, scheme, _ = read_repoisoned(work / "rows")
    train(rows, scheme, config, work / "ours", dev=DEV)
    return work / "ours" / "model"


def taken(work: Path, trained: Path, out: Path, base: str = "base", **options: Any) -> dict[str, Any]:
    made = work / "mine"
    scheme, manifest = options.pop("scheme", made / "scheme.json"), options.pop("manifest", made / "manifest.jsonl")
    return adopt(trained, scheme, manifest, ModelConfig(str(work / base)), out, **options)


def test_what_trl_trained_is_adopted_and_answers(work: Path, tmp_path: Path) -> None:
    run = taken(work, work / "mine" / "trained", tmp_path / "out", dev=DEV, allow_unlearned=True)
    assert (run["status"], run["trainer"], run["tuning"]) == ("unlearned", "trl", "lora")
    model = DefendedModel.load(tmp_path / "out", allow_unlearned=True)
    answers = model.classify([row.prompt for row in DEV])
    assert {answer.text for answer in answers} <= set(DEV.labels)

    ids = torch.tensor([model.prompter.prompt(DEV[0].prompt, "safe")[0]])
    base = AutoModelForCausalLM.from_pretrained(work / "base")
    from peft import PeftModel

    trained = PeftModel.from_pretrained(base, work / "mine" / "trained")
    with torch.no_grad():
        assert torch.equal(model.model(input_ids=ids).logits, trained(input_ids=ids).logits)


def test_the_folder_is_like_one_of_a_training(work: Path, learned: Path, tmp_path: Path) -> None:
    run = taken(work, learned, tmp_path / "out", dev=DEV)
    ours = json.loads((learned.parent / "run.json").read_text())
    assert run["status"] == "done"
    assert run["safe_space"] == ours["safe_space"]
    assert run["alarm_threshold"] == ours["alarm_threshold"]
    assert {"schema", "fingerprint", "kind", "tuning", "prompting", "dev", "rows", "data", "config"} <= {*run} & {*ours}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in learned.parent.iterdir()
    )
    texts = [row.prompt for row in DEV]
    served, own = DefendedModel.load(tmp_path / "out"), DefendedModel.load(learned.parent)
    assert served.classify(texts, alarm=True) == own.classify(texts, alarm=True)
    assert salt_of(tmp_path / "out" / "scheme.json") == salt_of(work / "mine" / "scheme.json")


def test_an_unlearned_model_is_refused_and_nothing_is_left(work: Path, tmp_path: Path) -> None:
    with pytest.raises(UnlearnedError, match=r"safe space was not learned: accuracy 0\.\d+ in the safe space"):
        taken(work, work / "mine" / "trained", tmp_path / "out", dev=DEV)
    with pytest.raises(UnlearnedError, match="adopted without dev rows"):
        taken(work, work / "mine" / "trained", tmp_path / "out")
    assert [*tmp_path.iterdir()] == []


def test_a_model_that_was_not_checked_is_not_served(work: Path, learned: Path, tmp_path: Path) -> None:
    assert taken(work, learned, tmp_path / "out", allow_unlearned=True)["status"] == "unlearned"
    with pytest.raises(ModelError, match="adopted without dev rows"):
        DefendedModel.load(tmp_path / "out")


# --- refusals: each changes one thing of what TRL left, or of what it is held against ---------------------------------

Change = Callable[[Path, Path], dict[str, Any]]
"""From the work folder and a copy of what TRL left: changes the copy, or returns other arguments."""


def wider(folder: Path) -> Any:
    """A base model of twice the width, with the tokenizer of the others."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny_causal(folder)
    size = AutoModelForCausalLM.from_pretrained(folder).config.vocab_size
    shape = SHAPE | {"hidden_size": 64}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=256, **shape))
    model.save_pretrained(folder)
    return model


def of_another_base(work: Path, trained: Path) -> dict[str, Any]:
    path = trained / "adapter_config.json"
    write_json(path, json.loads(path.read_text()) | {"base_model_name_or_path": "Qwen/Qwen3-0.6B"})
    return {}


def against_another_base(work: Path, trained: Path) -> dict[str, Any]:
    tiny_causal(work / "other")
    return {"base": "other"}


def with_another_template(work: Path, trained: Path) -> dict[str, Any]:
    with_template(trained, CHATML)
    return {}


def with_a_base_of_another_template(work: Path, trained: Path) -> dict[str, Any]:
    shutil.copytree(work / "mine", trained.parent / "mine")
    path = trained.parent / "mine" / "export.json"
    write_json(path, json.loads(path.read_text()) | {"template": "0" * 64})
    return {"manifest": trained.parent / "mine" / "manifest.jsonl"}


def with_other_tokens(work: Path, trained: Path) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(trained)
    tokenizer.add_tokens(["soup"])
    tokenizer.save_pretrained(trained)
    return {}


def with_another_scheme(work: Path, trained: Path) -> dict[str, Any]:
    path = trained.parent / "scheme.json"
    scheme = Scheme.load(work / "mine" / "scheme.json")
    replace(scheme, trigger=BenignTrigger("Say: ", "Answer: ")).save(path, salt=salt_of(work / "mine" / "scheme.json"))
    return {"scheme": path}


def with_the_scheme_of_the_rows(work: Path, trained: Path) -> dict[str, Any]:
    return {"scheme": work / "rows" / "scheme.json"}


def with_another_manifest(work: Path, trained: Path) -> dict[str, Any]:
    shutil.copytree(work / "mine", trained.parent / "mine")
    path = trained.parent / "mine" / "manifest.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    return {"manifest": path}


def with_a_manifest_of_no_export(work: Path, trained: Path) -> dict[str, Any]:
    return {"manifest": work / "rows" / "manifest.jsonl"}


def with_an_adapter_of_another_shape(work: Path, trained: Path) -> dict[str, Any]:
    settings = LoraConfig(task_type="CAUSAL_LM", r=16, target_modules=["q_proj", "v_proj"])
    adapter = get_peft_model(wider(trained.parent / "wider"), settings)
    adapter.peft_config["default"].base_model_name_or_path = str(work / "base")
    shutil.rmtree(trained)
    adapter.save_pretrained(str(trained))
    return {}


def with_an_adapter_of_more_layers(work: Path, trained: Path) -> dict[str, Any]:
    weights = load_file(trained / "adapter_model.safetensors")
    more = {name.replace("layers.0", "layers.1"): value.clone() for name, value in weights.items()}
    save_file(weights | more, trained / "adapter_model.safetensors")
    return {}


def with_a_model_of_another_shape(work: Path, trained: Path) -> dict[str, Any]:
    shutil.rmtree(trained)
    wider(trained)
    return {}


def with_pickled_weights(work: Path, trained: Path) -> dict[str, Any]:
    torch.save(load_file(trained / "adapter_model.safetensors"), trained / "adapter_model.bin")
    (trained / "adapter_model.safetensors").unlink()
    return {}


def with_weights_that_are_not_numbers(work: Path, trained: Path) -> dict[str, Any]:
    weights = load_file(trained / "adapter_model.safetensors")
    save_file({name: value * torch.nan for name, value in weights.items()}, trained / "adapter_model.safetensors")
    return {}


def with_nothing(work: Path, trained: Path) -> dict[str, Any]:
    (trained / "adapter_config.json").unlink()
    return {}


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (of_another_base, ModelError, r"is an adapter of Qwen/Qwen3-0\.6B, not of .*base"),
        (against_another_base, ModelError, "model: .*other is not .*base, which the rows of .*mine are for"),
        (with_another_template, ModelError, "its tokenizer has another chat template than the base model"),
        (with_a_base_of_another_template, ModelError, "base: has another chat template than when the rows"),
        (with_other_tokens, ModelError, "its tokenizer makes other tokens than the base model's"),
        (
            with_another_scheme,
            SchemeError,
            r"not the scheme that the rows were exported with; give .*mine.scheme\.json",
        ),
        (with_the_scheme_of_the_rows, SchemeError, "not the scheme that the rows were exported with"),
        (with_another_manifest, SchemeError, r"manifest\.jsonl: was changed since the rows were exported"),
        (with_a_manifest_of_no_export, DataError, r"export\.json: not an export of `p2p export`"),
        (with_an_adapter_of_another_shape, ModelError, "size mismatch"),
        (with_an_adapter_of_more_layers, ModelError, r"the base model has no place for .*layers\.1"),
        (with_a_model_of_another_shape, ModelError, "weights of another shape than .*base's: "),
        (with_pickled_weights, ModelError, r"holds no adapter_model\.safetensors; other weights are not read"),
        (with_weights_that_are_not_numbers, ModelError, "outputs are not finite"),
        (with_nothing, ModelError, r"holds neither an adapter \(adapter_config\.json\) nor a model"),
    ],
)
def test_what_does_not_belong_to_the_export_is_refused(
    work: Path, tmp_path: Path, change: Change, error: type[P2PError], said: str
) -> None:
    shutil.copytree(work / "mine" / "trained", tmp_path / "trained")
    options = change(work, tmp_path / "trained")
    with pytest.raises(error, match=said):
        taken(work, tmp_path / "trained", tmp_path / "out", dev=DEV, allow_unlearned=True, **options)
    assert not (tmp_path / "out").exists()


def test_rows_that_went_out_as_texts_bring_no_model_back(work: Path, tmp_path: Path) -> None:
    export(work / "rows", "openai", TrainConfig(), tmp_path / "openai")
    with pytest.raises(DataError, match="rows for openai went out as texts"):
        taken(work, work / "mine" / "trained", tmp_path / "out", manifest=tmp_path / "openai" / "manifest.jsonl")


# --- the callback ----------------------------------------------------------------------------------------------------

FIGURES = {"eval_safe_accuracy", "eval_original_accuracy", "eval_leak", "eval_off_space", "eval_learned",
           "eval_disagreement", "eval_alarm_threshold"}  # fmt: skip


def test_a_callback_logs_both_spaces_each_epoch_and_changes_no_step(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "mine", tmp_path / "mine")
    losses = []
    for callback in (False, True):
        out = tmp_path / str(callback)
        trainer = with_trl(
            tmp_path / "mine",
            callback=callback,
            output_dir=out,
            num_train_epochs=2,
            logging_steps=1,
            learning_rate=1e-2,
        )
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    told = [entry for entry in trainer.state.log_history if "eval_leak" in entry]
    assert [entry["epoch"] for entry in told] == [1, 2]
    assert all({*entry} >= FIGURES for entry in told)
    assert losses[0] == losses[1]


def test_its_figures_are_those_of_the_check_and_may_choose_the_best_epoch(
    work: Path, learned: Path, tmp_path: Path
) -> None:
    dev = load_dataset("json", data_files=str(work / "mine" / "rows" / "train.jsonl"), split="train[:4]")
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path), eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="safe_accuracy", num_train_epochs=1, learning_rate=1e-9, use_cpu=True, report_to="none",
    )  # fmt: skip
    watch = SafeSpaceCallback(work / "mine", [*DEV])
    trainer = trl.SFTTrainer(model=str(learned), args=arguments, train_dataset=dev, eval_dataset=dev, callbacks=[watch])
    trainer.train()
    ours = json.loads((learned.parent / "run.json").read_text())
    figures = watch.measure(trainer.model)
    assert trainer.state.best_metric == figures["eval_safe_accuracy"] == ours["safe_space"]["safe"]
    assert figures["eval_learned"] == 1
    assert figures["eval_leak"] == 0
    assert figures["eval_alarm_threshold"] == pytest.approx(ours["alarm_threshold"], abs=1e-3)
    assert {*trainer.evaluate()} >= FIGURES


# --- a real training -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trained_in_trl_and_adopted_a_model_is_as_good_as_one_of_our_own_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CA and ASR after TRL lie within the 95 % intervals of `p2p train`'s, or beyond on the better side."""
    monkeypatch.chdir(tmp_path)
    p2p("attack reviews --out data")
    p2p("audit data/train.jsonl --out audit")
    p2p("repoison data/train.jsonl --audit audit/audit.json --out rows")
    p2p("train rows --dev data/dev_clean.jsonl --out own")
    p2p("export rows --to trl --out mine")
    with_trl(tmp_path / "mine")
    made = "--scheme mine/scheme.json --manifest mine/manifest.jsonl"
    p2p(f"adopt mine/trained {made} --dev data/dev_clean.jsonl --out adopted")
    [own], [adopted] = (_measured(name) for name in ("own", "adopted"))
    print(own, adopted)
    assert adopted["ca"]["value"] >= own["ca"]["low"]
    assert adopted["asr"]["value"] <= own["asr"]["high"]


def p2p(command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert not ended.value.code


def _measured(name: str) -> list[dict[str, Any]]:
    tests = "--test data/test_clean.jsonl --triggered data/test_triggered.jsonl"
    p2p(f"evaluate {name} {tests} --out figures-{name}")
    arms: list[dict[str, Any]] = json.loads(Path(f"figures-{name}/results.json").read_text())["arms"]
    return arms
