from __future__ import annotations

import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
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


def test_the_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hardware.on_cpu()
    assert hardware.device().startswith("CPU (")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    assert not hardware.on_cpu()
    assert hardware.device() == "NVIDIA H100"


def test_half_precision_is_computed_in_where_it_was_asked_for() -> None:
    with hardware.autocast(torch.device("cpu"), "float16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float16


@pytest.mark.parametrize(("system", "mib"), [("linux", 3), ("darwin", 3)])
def test_peak_memory_is_in_mib_whatever_the_system_counts_in(
    system: str, mib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = {"linux": 3 * 2**10, "darwin": 3 * 2**20}[system]  # kilobytes, and bytes
    fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=counted))
    monkeypatch.setitem(sys.modules, "resource", fake)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hardware.peak_memory_mib() == mib


def test_models_that_hold_themselves_are_given_back() -> None:
    held = SimpleNamespace(weights=torch.zeros(4))
    held.itself = held
    alive = weakref.ref(held.weights)
    del held
    hardware.free_memory()
    assert alive() is None
