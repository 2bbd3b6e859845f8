"""The loss on targets alone is the loss that a model would have without any shortcut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from poison2poison.model.loss import IGNORED, only_target_logits, target_loss
from support import tiny_causal

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
