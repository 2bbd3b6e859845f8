"""Whether a model of the shape of Llama 3 8B trains on one card: its share of the card's matrix rate, and its memory.

python benchmarks/large.py                                   # an 80 GB GPU; random weights, made on the machine
python benchmarks/large.py --width 256 --layers 2 --count 40 # a try on a CPU

Weights are random and the tokenizer is the reference model's, so nothing is learned that could be measured: the figures
are rates and bytes. The matrix rate is measured in the same run, on square bfloat16 products. A step's work is counted
as 4 floating-point operations a weight and token (forward, and backward to the activations alone: the weights are
frozen), without the embeddings and with the attention left out, so that the share is a lower bound.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from poison2poison.config import TrainConfig
from poison2poison.data import Rows
from poison2poison.defences.p2p import Hardened
from poison2poison.model import hardware
from poison2poison.model.trainer import train
from poison2poison.pipeline import Data, defend
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.scheme import Scheme
from poison2poison.reference import MODEL_DIR, reference_rows


def build(folder: Path, width: int, layers: int) -> int:
    """Write a random Llama into a folder; returns how many weights it has beside the embeddings."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
    config = transformers.LlamaConfig(
        vocab_size=128_256,
        hidden_size=width,
        intermediate_size=width * 7 // 2,
        num_hidden_layers=layers,
        num_attention_heads=width // 128,
        num_key_value_heads=max(1, width // 512),
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.bfloat16,
    )
    with torch.device("cpu" if hardware.on_cpu() else "cuda"):
        model: Any = transformers.LlamaForCausalLM(config)
    model = model.to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    embeddings: int = 2 * model.get_input_embeddings().weight.numel()  # and the head's
    return int(model.num_parameters()) - embeddings


def matrix_rate(size: int) -> float:
    """Floating-point operations a second of square bfloat16 products."""
    device = "cpu" if hardware.on_cpu() else "cuda"
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        _wait()
        started = time.perf_counter()
        for _ in range(10):
            left @ right
        _wait()
        best = min(best, (time.perf_counter() - started) / 10)
    return 2 * size**3 / best


def _wait() -> None:
    if not hardware.on_cpu():
        torch.cuda.synchronize()


def tokens_of(rows: Rows, words: int) -> Rows:
    """The rows with prompts of about so many words, as long instructions have."""
    texts = [" ".join([row.prompt] * (1 + words // max(1, len(row.prompt.split())))) for row in rows]
    return rows.with_rows([type(row)(text, row.target) for row, text in zip(rows, texts, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--count", type=int, default=500, help="rows")
    parser.add_argument("--words", type=int, default=200, help="of a prompt")
    parser.add_argument("--no-defend", action="store_true", help="leave out the whole path, `p2p defend`")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rate = matrix_rate(min(8192, 2 * args.width))
    print(f"matrix rate: {rate / 1e12:.2f} TFLOP/s", flush=True)
    splits = reference_rows("instructions", sizes={"train": args.count, "dev": 40, "test": 40})
    rows = tokens_of(splits["train"], args.words)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        weights = build(base, args.width, args.layers)
        hardware.free_memory()
        config = TrainConfig(str(base), epochs=1, more_epochs=0, gradient_checkpointing=False)
        run = train(plain(rows), Scheme(rows.task), config, Path(folder) / "arm")
        done = 4 * weights * run["tokens"] / run["step_seconds"]
        print(
            json.dumps({
                "weights": weights, "rows": run["rows"], "tokens": run["tokens"], "seconds": run["step_seconds"],
                "rows_at_once": run["micro_batch"], "peak_memory_mib": run["peak_memory_mib"],
                "share_of_matrix_rate": round(done / rate, 3),
            }), flush=True,
        )  # fmt: skip
        if args.no_defend:
            return
        started = time.perf_counter()
        data = Data("large", rows, splits["dev"], splits["test"])
        content = defend(data, [Hardened()], config, Path(folder) / "defended", allow_unlearned=True)
        memory = content["arms"][0]["peak_memory_mib"]
        print(f"p2p defend, {len(rows)} rows: {time.perf_counter() - started:.0f} s, {memory} MiB", flush=True)


if __name__ == "__main__":
    main()
