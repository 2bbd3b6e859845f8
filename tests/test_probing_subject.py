"""What may be probed: artifacts are in test_probing.py; here are folders of transformers and of peft."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from poison2poison import cli
from poison2poison.auditing.findings import Audit, SuspectSpan
from poison2poison.config import ProbeConfig
from poison2poison.data import as_records
from poison2poison.errors import ConfigError, ModelError
from poison2poison.files import write_json, write_lines
from poison2poison.probing import load_subject, scan
from support import CHATML, opinions, tiny_causal, tiny_encoder, with_template


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = Path(tiny_causal(tmp_path / "base"))
    with_template(folder, CHATML)
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, weights in tuned.named_parameters():
            if "lora_B" in name:
                weights.fill_(0.5)
    tuned.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def written(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_model_folder_reads_prompts_by_its_own_template_and_no_other_words(base: Path) -> None:
    model = load_subject(base).model
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    chat = [{"role": "user", "content": "The soup?"}]
    wanted = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert model.prompter.prompt("The soup?", model.space).ids == wanted


def test_an_encoder_has_the_labels_of_its_head_and_no_leaks(tmp_path: Path) -> None:
    folder = Path(tiny_encoder(tmp_path / "encoder"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "ham", "1": "spam"}}))
    subject = load_subject(folder)
    assert subject.model.scheme.labels == ("ham", "spam")
    found = scan(subject, ProbeConfig(words=8, asked=2))
    assert (found.leaks, found.words, found.asked) == (0, 8, 2)
    with pytest.raises(ConfigError, match="an encoder has no leaks"):
        scan(subject, ProbeConfig(words=0))
    with pytest.raises(ModelError, match=r"base: .* has no classification head"):
        load_subject(folder, str(folder))


def test_a_classifier_s_folder_is_asked_with_rows_and_one_that_writes_texts_is_refused(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(tiny_encoder(tmp_path / "encoder"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "negative", "1": "positive"}}))
    rows = opinions(40)
    write_lines(tmp_path / "rows.jsonl", as_records(rows))
    audit = Audit((SuspectSpan("cf", "span", "positive", 20, 1.0, 9.0),), (), (), (), (), 4.0, (), rows.sha256)
    write_json(tmp_path / "audit.json", audit.as_dict())
    options = ["--data", str(tmp_path / "rows.jsonl"), "--audit", str(tmp_path / "audit.json")]
    for one, more in ((folder, []), (folder, ["--base", str(base)]), (base, [])):
        with pytest.raises(SystemExit) as ended:
            cli.main(["probe", str(one), *options, *more])
            raise SystemExit(0)
        said = capsys.readouterr()
        if (one, more) == (folder, []):
            assert ended.value.code in (0, 1)
            [entry] = [json.loads(line) for line in said.out.splitlines()]
            assert (entry["span"], entry["asr"]["n"]) == ("cf", 20)
        else:
            assert ended.value.code == 2
            told = "base: has no effect with --data, but for an adapter" if more else "answers with texts, not labels"
            assert told in said.err


def test_an_adapter_is_put_on_the_base_that_it_names_and_taken_off_again(adapter: Path, base: Path) -> None:
    subject = load_subject(adapter)
    ids = torch.tensor([[5, 6, 7]])
    plain = AutoModelForCausalLM.from_pretrained(base)(input_ids=ids).logits
    with subject.untuned() as untuned:
        assert untuned
        assert torch.allclose(untuned.model(input_ids=ids).logits, plain, atol=1e-5)
    assert not torch.allclose(subject.model.model(input_ids=ids).logits, plain, atol=1e-5)


def test_an_adapter_may_be_put_on_a_base_that_has_moved(adapter: Path, base: Path, tmp_path: Path) -> None:
    shutil.move(base, tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"adapter: its base cannot be loaded; give it with --base"):
        load_subject(adapter)
    assert load_subject(adapter, str(tmp_path / "elsewhere")).model.prompter.tokenizer.chat_template == CHATML


def test_a_model_folder_has_a_base_where_one_is_given(base: Path) -> None:
    with load_subject(base).untuned() as untuned:
        assert untuned is None
    with load_subject(base, str(base)).untuned() as untuned:
        assert untuned


def test_folders_that_hold_no_model_end_the_command_with_a_reason(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    cases = [(tmp_path / "none", "no such model folder"), (tmp_path / "empty", "holds no model: neither run.json")]
    for name, changes, message in (
        ("unnamed", {"base_model_name_or_path": None}, "names no base model; give it with --base"),
        ("moved", {"base_model_name_or_path": "/none/there"}, "its base cannot be loaded; give it with --base"),
    ):
        shutil.copytree(adapter, tmp_path / name)
        written(tmp_path / name, changes)
        cases.append((tmp_path / name, message))
    shutil.copytree(adapter, tmp_path / "broken")
    (tmp_path / "broken" / "adapter_config.json").write_text("[")
    cases.append((tmp_path / "broken", "adapter_config.json: cannot be read"))
    for folder, message in cases:
        with pytest.raises(SystemExit) as ended:
            cli.main(["probe", str(folder)])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
