from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from poison2poison.model import hardware


def test_a_gpu_that_only_emulates_bfloat16_does_not_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert not hardware.has_bf16()


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
