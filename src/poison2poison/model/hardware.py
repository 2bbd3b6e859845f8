"""The hardware that a process computes on: its memory, its number formats, its attention kernels."""

from __future__ import annotations

import gc
import os
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from poison2poison.types import Auto, Dtype


def device() -> str:
    """What this process computes on, in words."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"


def on_cpu() -> bool:
    """Whether there is no GPU."""
    return not torch.cuda.is_available()


def has_bf16() -> bool:
    """Whether the hardware computes bfloat16 natively, so that autocast pays."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def autocast(device: torch.device, dtype: Dtype | Auto = "auto") -> AbstractContextManager[Any]:
    """The number format of products: bfloat16 where the hardware has it, unless the weights' was asked for.

    Args:
        device: Where the model computes.
        dtype: As of `ModelConfig`.
    """
    if dtype == "float16":
        return torch.autocast(device.type, torch.float16)
    return torch.autocast(device.type, torch.bfloat16) if dtype != "float32" and has_bf16() else nullcontext()


def free_memory() -> None:
    """Give back the memory of models that nobody holds any more; a trainer's parts hold each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def without_cudnn_attention() -> AbstractContextManager[Any]:
    """Keep scaled_dot_product_attention off cuDNN, which torch prefers on H100 and H200.

    Its backward pass gives NaN in the queries' gradient where there is a mask and the padded length is 64 modulo 128:
    https://github.com/pytorch/pytorch/issues/196678
    """
    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    found: AbstractContextManager[Any] = sdpa_kernel(kernels)
    return found


def peak_memory_mib() -> int | None:
    """Peak memory of this process: the GPU's where there is one, else the resident set; None where it is not told."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)
