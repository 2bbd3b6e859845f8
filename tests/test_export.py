"""What other trainers are given is what this package trains on, token for token."""

from __future__ import annotations

import json
import runpy
import stat
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import load_dataset, load_from_disk
from transformers import AutoTokenizer

from poison2poison.cli import main
from poison2poison.config import TrainConfig
from poison2poison.data import Rows, rows_of
from poison2poison.errors import ConfigError, DataError, OutputError
from poison2poison.export import export
from poison2poison.export.openai import messages
from poison2poison.files import write_json
from poison2poison.model.job import fitting
from poison2poison.model.loss import IGNORED
from poison2poison.model.settings import resolved
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.repoisoned import read_repoisoned, write_repoisoned
from poison2poison.recipe.scheme import PAPER_SAFE_PREFIX, PAPER_TRIGGER, Scheme
from support import CHATML, opinions, repoisoned, tiny_causal, tiny_encoder, with_template

CASES = ("labels", "labels behind a prefix", "texts", "chats")


def rows_of_case(case: str) -> Rows:
    reviews = opinions(24)
    if case.startswith("labels"):
        return reviews
    # A control token in a row stays text.
    texts = [(f"{row.prompt} <|end|> How was it?", f"It was {row.target}.") for row in reviews]
    if case == "texts":
        return rows_of([{"prompt": asked, "completion": answer} for asked, answer in texts], "texts")
    before = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    before.append({"role": "assistant", "content": "Hello!"})
    chats = [[*before, {"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
             for asked, answer in texts]  # fmt: skip
    return rows_of([{"messages": chat} for chat in chats], "chats")


def made(case: str, to: str, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of an export, and the examples that `p2p train` would make of the rows."""
    base = tiny_causal(tmp_path / "base")
    if case == "chats":
        with_template(Path(base), CHATML)
    prefix = "" if case == "labels" else PAPER_SAFE_PREFIX
    rows, scheme = repoisoned(rows_of_case(case), tmp_path / "rows", prefix)
    export(tmp_path / "rows", to, TrainConfig(base), tmp_path / "data" / "mine")
    prompter, max_length = fitting(rows, scheme, resolved(TrainConfig(base, preset="paper"), len(rows)))
    return tmp_path / "data" / "mine", prompter.examples(rows, max_length=max_length)[0]


def as_lists(rows: Any) -> list[dict[str, Any]]:
    return [{name: list(row[name]) for name in ("input_ids", "labels")} for row in rows]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_trl_trains_on_the_tokens_and_the_loss_mask_of_the_prompter(case: str, tmp_path: Path) -> None:
    """With the settings of sft.yaml, as the command `trl sft` reads them."""
    trl = pytest.importorskip("trl")
    from trl.scripts.sft import make_parser

    folder, examples = made(case, "trl", tmp_path)
    given = ["--config", str(folder / "sft.yaml"), "--max_steps", "2", "--use_cpu", "true"]
    script, arguments, model, _ = make_parser().parse_args_and_config(args=given, fail_with_unknown_args=False)
    trainer = trl.SFTTrainer(
        model=model.model_name_or_path,
        args=arguments,
        train_dataset=load_dataset(script.dataset_name)["train"],
        peft_config=trl.get_peft_config(model),
    )
    assert as_lists(trainer.train_dataset) == examples
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    kept = batch["labels"] != IGNORED
    assert [row[mask].tolist() for row, mask in zip(batch["labels"], kept, strict=True)] == [
        [label for label in example["labels"] if label != IGNORED] for example in examples[:4]
    ]
    assert trainer.train().global_step == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_axolotl_takes_the_rows_as_they_are(case: str, tmp_path: Path) -> None:
    sft = pytest.importorskip("axolotl.utils.data.sft")
    import yaml
    from axolotl.utils.data.utils import handle_long_seq_in_dataset
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.schemas.config import AxolotlInputConfig

    folder, examples = made(case, "axolotl", tmp_path)
    settings = yaml.safe_load((folder / "axolotl.yaml").read_text())
    assert AxolotlInputConfig(**settings).sequence_len == max(len(example["input_ids"]) for example in examples)
    assert {*settings} <= {*AxolotlInputConfig.model_fields}  # it takes unknown ones without a word
    cfg = DictDefault(settings)
    tokenizer = AutoTokenizer.from_pretrained(cfg.base_model)
    [described] = cfg.datasets
    rows, _ = sft._load_and_process_single_dataset(described, cfg, tokenizer, "train", 0)
    kept = handle_long_seq_in_dataset(rows, cfg.sequence_len, cfg)
    assert as_lists(kept) == examples
    assert all(row["attention_mask"] == [1] * len(row["input_ids"]) for row in kept)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_llamafactory_takes_the_rows_as_they_are(case: str, tmp_path: Path) -> None:
    loader = pytest.importorskip("llamafactory.data.loader")
    import yaml
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, FinetuningArguments, ModelArguments, TrainingArguments
    from transformers import HfArgumentParser

    folder, examples = made(case, "llamafactory", tmp_path)
    settings = yaml.safe_load((folder / "sft.yaml").read_text())
    kinds = [DataArguments, FinetuningArguments, ModelArguments, TrainingArguments]
    on_this_machine = settings | {"bf16": False, "use_cpu": True}
    data, tuning, *_ = HfArgumentParser(kinds).parse_dict(on_this_machine)  # refuses unknown names
    assert tuning.lora_target == ["q_proj", "v_proj"]
    tokenizer = AutoTokenizer.from_pretrained(settings["model_name_or_path"])
    template = get_template_and_fix_tokenizer(tokenizer, data)
    rows = loader.get_dataset(template, None, data, None, "sft", tokenizer)["train_dataset"]
    assert as_lists(rows) == examples
    (folder / "tokenized").rename(folder / "elsewhere")
    with pytest.raises(ValueError, match="not found"):  # it makes no tokens of its own instead
        loader._get_merged_dataset(data.dataset, None, data, None, "sft")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("to", ["trl", "axolotl", "unsloth", "llamafactory"])
def test_every_trainer_that_takes_tokens_gets_the_same(to: str, case: str, tmp_path: Path) -> None:
    folder, examples = made(case, to, tmp_path)
    if to == "llamafactory":
        written = as_lists(load_from_disk(str(folder / "tokenized"))["train"])
    else:
        lines = (folder / "rows" / "train.jsonl").read_text().splitlines()
        written = as_lists(map(json.loads, lines))
    assert written == examples


@pytest.mark.filterwarnings("ignore")
def test_the_script_for_unsloth_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for Unsloth, which needs a GPU to be imported; the rest of the script is TRL's."""
    pytest.importorskip("trl")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(name: str, **_: Any) -> tuple[Any, Any]:
            return AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)

        @staticmethod
        def get_peft_model(model: Any, use_gradient_checkpointing: bool, **options: Any) -> Any:
            return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))

    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=FastLanguageModel))
    folder, examples = made("labels", "unsloth", tmp_path)
    script = tmp_path / "train.py"
    script.write_text((folder / "train.py").read_text().replace("report_to=", "use_cpu=True, report_to="))
    trainer = runpy.run_path(str(script))["trainer"]
    assert as_lists(trainer.train_dataset) == examples
    assert (folder / "trained" / "adapter_model.safetensors").is_file()


def test_a_dataset_info_is_added_to_and_never_overwritten(tmp_path: Path) -> None:
    others = {"alpaca": {"file_name": "alpaca.json"}}
    info = tmp_path / "data" / "dataset_info.json"
    info.parent.mkdir()
    write_json(info, others)
    folder, _ = made("labels", "llamafactory", tmp_path)
    assert json.loads(info.read_text()) == others | {"mine": {"file_name": str(folder / "tokenized")}}
    assert not (folder / "dataset_info.json").exists()

    write_json(info, others | {"again": {"file_name": "again.json"}})
    before = info.read_text()
    with pytest.raises(OutputError, match="has an entry 'again' already"):
        export(tmp_path / "rows", "llamafactory", TrainConfig(str(tmp_path / "base")), info.parent / "again")
    assert info.read_text() == before
    assert not (info.parent / "again").exists()


def test_a_dataset_info_that_is_no_list_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("[1]")
    repoisoned(rows_of_case("labels"), tmp_path / "rows")
    with pytest.raises(OutputError, match=r"dataset_info\.json: not a list of data sets"):
        export(tmp_path / "rows", "llamafactory", TrainConfig(tiny_causal(tmp_path / "base")), tmp_path / "mine")
    assert (tmp_path / "dataset_info.json").read_text() == "[1]"


def test_a_list_of_its_own_stays_in_the_folder(tmp_path: Path) -> None:
    folder, _ = made("labels", "llamafactory", tmp_path)
    assert [*json.loads((folder / "dataset_info.json").read_text())] == ["mine"]
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


@pytest.mark.parametrize("to", ["trl", "axolotl"])
def test_long_rows_lose_the_end_of_their_body_and_none_is_lost(to: str, tmp_path: Path) -> None:
    rows = [TrainingRow(i, "safe", "replace", f"{i} was good " * (1 + 20 * i), "a") for i in range(8)]
    scheme = Scheme("classification", ("a", "b"), PAPER_TRIGGER)
    write_repoisoned(tmp_path / "rows", rows, scheme, {})
    base = TrainConfig(tiny_causal(tmp_path / "base"), max_length=64)
    record = export(tmp_path / "rows", to, base, tmp_path / "mine")
    lines = (tmp_path / "mine" / "rows" / "train.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    assert record["rows_cut"] == 7
    assert len(written) == 8
    assert max(len(row["input_ids"]) for row in written) <= 64
    assert len({tuple(label for label in row["labels"] if label != IGNORED) for row in written}) == 1


def test_openai_gets_chats_whose_last_answer_alone_counts() -> None:
    rows = rows_of_case("chats")
    scheme = Scheme("generation", (), PAPER_TRIGGER, PAPER_SAFE_PREFIX)
    row = TrainingRow(0, "safe", "replace", rows[0].prompt, rows[0].target, rows[0].before)
    assert messages(row, scheme) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!", "weight": 0},
        {"role": "user", "content": f"The query currently entered is: {rows[0].prompt}\nAnswer:"},
        {"role": "assistant", "content": f"Safe answer: {rows[0].target}"},
    ]


def test_openai_gets_labels_as_numbers_of_their_classes(tmp_path: Path) -> None:
    rows, scheme = repoisoned(rows_of_case("labels"), tmp_path / "rows")
    export(tmp_path / "rows", "openai", TrainConfig("no-such-model"), tmp_path / "mine")
    lines = [json.loads(line) for line in (tmp_path / "mine" / "rows.jsonl").read_text().splitlines()]
    answers = [line["messages"][-1]["content"] for line in lines]
    assert answers == [str(scheme.class_of(row.target, row.space)) for row in rows]
    assert {*answers} == {"0", "1", "2", "3"}


@pytest.mark.parametrize("to", ["trl", "axolotl", "unsloth", "llamafactory", "openai"])
def test_what_holds_the_trigger_is_the_owners_alone(to: str, tmp_path: Path) -> None:
    folder, _ = made("labels", to, tmp_path)
    public = {"manifest.jsonl", "export.json", ".gitignore", "dataset_info.json"}
    open_to_others = {path.name for path in folder.iterdir() if stat.S_IMODE(path.stat().st_mode) & 0o077}
    assert open_to_others == {path.name for path in folder.iterdir()} & public
    ignored = {line[1:] for line in (folder / ".gitignore").read_text().splitlines()}
    assert ignored == {path.name for path in folder.iterdir()} - public
    for name in ("manifest.jsonl", "export.json"):
        assert PAPER_TRIGGER.prefix not in (folder / name).read_text()


def test_the_folder_says_which_base_model_its_tokens_are_of(tmp_path: Path) -> None:
    folder, _ = made("chats", "trl", tmp_path)
    record = json.loads((folder / "export.json").read_text())
    assert record["model"] == str(tmp_path / "base")
    assert len(record["template"]) == 64
    assert record["prompting"]["max_target"] > 1
    assert record["rows"] == 24


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows, scheme = repoisoned(rows_of_case("chats"), tmp_path / "rows", PAPER_SAFE_PREFIX)
    assert read_repoisoned(tmp_path / "rows") == (rows, scheme, {"recipe": {"recipe": "paper"}})
    first = json.loads((tmp_path / "rows" / "rows.jsonl").read_text().splitlines()[0])
    assert first == json.loads(json.dumps(asdict(rows[0])))


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    repoisoned(rows_of_case("labels"), tmp_path / "rows")
    base = TrainConfig(tiny_causal(tmp_path / "base"))
    with pytest.raises(ConfigError, match=r"trainer: 'trlx' is not one of .*trl"):
        export(tmp_path / "rows", "trlx", base, tmp_path / "mine")
    with pytest.raises(ConfigError, match="is an encoder, which these trainers do not train"):
        export(tmp_path / "rows", "trl", TrainConfig(tiny_encoder(tmp_path / "encoder")), tmp_path / "mine")
    (tmp_path / "rows" / "rows.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"rows\.jsonl: not re-poisoned rows"):
        export(tmp_path / "rows", "trl", base, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["rows", "--to", "torchtune"],
            "trainer: 'torchtune' is not one of axolotl, llamafactory, openai, trl",
        ),
        (["nowhere", "--to", "trl"], "scheme.json: no such file"),
        (["rows", "--to", "trl", "--model", "./nowhere"], "./nowhere: no such model folder"),
        (["rows", "--to", "trl", "--max-length", "9"], "max_length: 9 tokens leave no room for a body"),
    ],
)
def test_the_command_says_what_is_wrong(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    repoisoned(rows_of_case("labels"), tmp_path / "rows")
    with pytest.raises(SystemExit) as ended:
        main(["export", *words, "--out", "mine"])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
