from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
)

from poison2poison.config import ModelConfig
from poison2poison.model import backbone, hardware
from poison2poison.types import Auto, Dtype


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that computes bfloat16 by emulation alone."""

    def supported(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)


@pytest.mark.usefixtures("old_gpu")
def test_a_gpu_that_only_emulates_bfloat16_does_not_have_it() -> None:
    assert not hardware.has_bf16()


@pytest.mark.usefixtures("old_gpu")
def test_where_bfloat16_is_emulated_neither_weights_nor_products_are_in_it(tmp_path: Path) -> None:
    large = LlamaConfig(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16)
    large.architectures = ["LlamaForCausalLM"]
    large.save_pretrained(tmp_path)
    assert backbone.how_to_load(ModelConfig(str(tmp_path)), "causal", frozen=True)["dtype"] == torch.float32
    with hardware.autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_where_the_system_does_not_tell_the_peak_memory_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    known = hardware.peak_memory_mib()
    assert known is None or known > 0
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows: importing it is an ImportError
    assert hardware.peak_memory_mib() is None


def test_bitsandbytes_tells_nothing_to_who_asked_for_no_four_bits() -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `quantize` is not installed")
    check = "from poison2poison.model import defended; import peft, sys; assert 'bitsandbytes' in sys.modules"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_attention_without_cudnn_is_still_attention() -> None:
    query = torch.randn(1, 1, 4, 8)
    expected = torch.nn.functional.scaled_dot_product_attention(query, query, query)
    cuda: Any = torch.backends.cuda
    with hardware.without_cudnn_attention():
        assert not cuda.cudnn_sdp_enabled()
        torch.testing.assert_close(torch.nn.functional.scaled_dot_product_attention(query, query, query), expected)
    assert cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize(("dtype", "found"), [("float32", torch.float32), ("auto", torch.bfloat16)])
def test_products_are_in_the_number_format_that_was_asked_for(
    dtype: Dtype | Auto, found: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda: True)
    with hardware.autocast(torch.device("cpu"), dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == found
