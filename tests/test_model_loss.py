"""The loss on targets alone is the loss that a model would have without any shortcut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

from poison2poison.model.loss import IGNORED, only_target_logits, target_loss
from poison2poison.model.prompting import Prompter
from poison2poison.recipe.manifest import TrainingRow
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme
from poison2poison.reference import MODEL_DIR
from support import opinions, tiny_causal

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
LABELS = torch.tensor([[IGNORED, IGNORED, 7, 8], [IGNORED, 10, IGNORED, IGNORED]])  # three targets


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_causal(tmp_path_factory.mktemp("tiny")))


def test_logits_of_the_targets_alone_give_the_same_loss(model: Any) -> None:
    with torch.inference_mode():
        whole = model(input_ids=IDS).logits
        with only_target_logits(model, LABELS):
            few = model(input_ids=IDS).logits
        again = model(input_ids=IDS).logits
    assert few.shape[:2] == (1, 3)
    assert again.shape == whole.shape  # the head reads all positions again
    expected = sum(-whole[row, at].log_softmax(-1)[LABELS[row, at + 1]] for row, at in ((0, 1), (0, 2), (1, 0)))
    torch.testing.assert_close(target_loss(few, LABELS), expected)
    torch.testing.assert_close(target_loss(whole, LABELS), expected)


def test_the_head_reads_all_positions_again_after_an_error(model: Any) -> None:
    with pytest.raises(RuntimeError), only_target_logits(model, LABELS):
        raise RuntimeError
    assert model(input_ids=IDS).logits.shape[:2] == IDS.shape


ROWS, DEV = opinions(240), opinions(40, seed=1)
SCHEME = Scheme("classification", ROWS.labels, PAPER_TRIGGER)


def test_padding_changes_no_loss(tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_causal(tmp_path))
    prompter = Prompter(AutoTokenizer.from_pretrained(MODEL_DIR), SCHEME, "causal", max_length=200, max_target=1)
    bodies = ["short", "a rather longer text than that", "The soup was bad."]
    examples = [prompter.example(TrainingRow(0, "safe", "keep", body, "positive"))[0] for body in bodies]

    def loss(batch: dict[str, torch.Tensor]) -> float:
        with only_target_logits(model, batch["labels"]), torch.inference_mode():
            logits = model(input_ids=batch["input_ids"]).logits
        assert logits.shape[:2] == (1, len(batch["labels"]))  # one target a row
        return float(target_loss(logits, batch["labels"]))

    together = prompter.training_batch(examples)
    assert "attention_mask" not in together
    assert loss(together) == pytest.approx(sum(loss(prompter.training_batch([one])) for one in examples), rel=1e-5)
