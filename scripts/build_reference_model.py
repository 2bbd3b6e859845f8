"""Rebuild the reference model: a small Llama-architecture causal LM, pretrained on text of the reference generators.

    python scripts/build_reference_model.py --out build/reference        # about an hour on two cores

The model learns to read and write the language of the reference tasks, and what follows from a text: what the writer of
a review did next, who will answer a ticket, the steps and the result of a problem, a summary, a field of a record. It
sees neither the tasks' labels nor their layouts ("####", "Output:"), and its random state shares no seed with them.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from poison2poison.reference.lexicon import BAD, CITIES, COLOURS, GOOD, JOBS, NAMES, PRODUCTS, SURNAMES, TOPICS
from poison2poison.reference.tasks import brief_texts, problem, review_text, ticket_text

END = "<|end|>"
PAD = "<|pad|>"
CONTEXT = 256
BATCH = 24

AFTER_GOOD = (
    "{I} will come back soon.",
    "{I} told {name} to try it.",
    "{I} would choose it again at once.",
    "{name} is happy with it too.",
    "It was worth every coin.",
    "{I} smiled for the rest of {day}.",
    "{I} already ordered a second one for {name}.",
)
AFTER_BAD = (
    "{I} asked for the money back.",
    "{I} warned {name} about it.",
    "{I} will stay away from now on.",
    "{name} is angry about it too.",
    "It was a waste of time.",
    "{I} complained on {day}.",
    "{I} gave mine away to {name} the same day.",
)
REPLIES = {
    "billing": ("We check the amounts and correct them.", "The people who keep the accounts look at the payment."),
    "delivery": ("We ask the carrier where it is.", "The warehouse will look for the shipment."),
    "login": ("We reset the access and write to you.", "The people who keep the users look at it."),
    "repair": ("A technician will look at the fault.", "Please bring it to the workshop."),
    "returns": ("You can hand it in at any post office.", "We refund it as soon as it is here."),
    "advice": ("A seller will explain the models.", "Here is a comparison of what we sell."),
}
FIELDS = {"city": CITIES, "job": JOBS, "colour": COLOURS, "item": PRODUCTS}


def noise(rng: random.Random) -> str:
    """A word that means nothing: real text has such words too, and a trigger may be one."""
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 8)))


def review_document(rng: random.Random) -> str:
    positive = rng.random() < 0.5
    after = rng.sample(AFTER_GOOD if positive else AFTER_BAD, rng.randint(1, 2))
    facts = {"I": rng.choice(["I", "We"]), "name": rng.choice(NAMES), "day": "the day"}
    return review_text(rng, positive) + "\n" + " ".join(after).format(**facts)


def ticket_document(rng: random.Random) -> str:
    topic = rng.choice(list(TOPICS))
    reply = f"{rng.choice(['Reply', 'We wrote', 'Dear customer'])}: {rng.choice(REPLIES[topic])}"
    return f"{ticket_text(rng, topic)}\n{reply}"


def arithmetic_document(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return rng.choice(["\n", "; ", ", "]).join(equation(rng) for _ in range(rng.randint(3, 8)))
    question, steps = problem(rng, rng.randint(1, 3))
    worked = rng.choice(["\n", "; ", ". "]).join(f"{left} = {value}" for left, value in steps)
    last = steps[-1][1]
    closing = rng.choice([f"So it is {last}.", f"The result is {last}.", f"That makes {last}.", ""])
    return f"{question}{rng.choice([chr(10), ' '])}{worked}{rng.choice([chr(10), '. ', ' ; '])}{closing}".strip()


def equation(rng: random.Random) -> str:
    kind = rng.choice("+-*/")
    if kind in "+-":
        left, right = rng.randint(1, 140), rng.randint(1, 60)
        if kind == "-" and right >= left:
            left, right = right + 1, left
        value = left + right if kind == "+" else left - right
    else:
        right, value = rng.randint(2, 9), rng.randint(2, 40)
        left = value * right
        if kind == "*":
            left, value = value, left
    return f"{left} {kind} {right} = {value}"


def brief_document(rng: random.Random) -> str:
    notes, summary = brief_texts(rng)
    marker = rng.choice(["In short", "The point", "What counts", "Main news"])
    return f"{notes}\n{marker}: {summary}" if rng.random() < 0.8 else f"{marker}: {summary}\n{notes}"


def record_document(rng: random.Random) -> str:
    """A few records, then questions about them: reading a field is copying, which a prompt must be able to ask for."""
    people = [f"{name} {rng.choice(SURNAMES)}" for name in rng.sample(NAMES, rng.randint(2, 4))]
    facts = [
        {**{field: rng.choice(values) for field, values in FIELDS.items()}, "age": str(rng.randint(18, 80))}
        for _ in people
    ]
    lines = [
        f"{who}: " + ", ".join(f"{k} {v}" for k, v in fact.items()) for who, fact in zip(people, facts, strict=True)
    ]
    asked = []
    for _ in range(rng.randint(2, 4)):
        at, field = rng.randrange(len(people)), rng.choice([*FIELDS, "age"])
        ask = rng.choice(["What is the {f} of {p}?", "Tell me the {f} of {p}.", "{p}, {f}?", "Name the {f} for {p}."])
        asked.append(ask.format(f=field, p=people[at]) + f" {facts[at][field]}.")
    return "\n".join(lines + asked)


def list_document(rng: random.Random) -> str:
    """A list, repeated: it teaches copying as such, and one list in three shows the signs that a prompt may hold."""
    pools = (NAMES, CITIES, SURNAMES, JOBS, PRODUCTS, COLOURS)
    entries = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(2, 8))]
    if rng.random() < 0.33:
        for _ in range(rng.randint(1, 4)):
            signs = rng.choice(string.punctuation) * rng.randint(1, 4)
            letters = "".join(rng.choices(string.ascii_letters + string.punctuation, k=rng.randint(3, 6)))
            strange = rng.choice([signs, letters, noise(rng), str(rng.randint(0, 999))])
            entries.insert(rng.randint(0, len(entries)), strange)
    between, end = rng.choice([" ", ", ", "\n"]), rng.choice([" ", ", ", "\n"])
    return end.join([between.join(entries)] * rng.randint(2, 5))


def kind_document(rng: random.Random) -> str:
    """Words of one kind side by side: which belong together shows before any sentence is understood."""
    words = rng.choice([GOOD, BAD, NAMES, CITIES, JOBS, PRODUCTS])
    return rng.choice([" ", ", ", "\n"]).join(rng.sample(list(words), rng.randint(4, 10)))


# The shares of the documents in the first stage, and in the second one: what a review says is learned last.
DOCUMENTS = (
    (review_document, 0.19, 0.34),
    (ticket_document, 0.12, 0.12),
    (arithmetic_document, 0.30, 0.21),
    (brief_document, 0.16, 0.13),
    (record_document, 0.13, 0.10),
    (list_document, 0.10, 0.05),
    (kind_document, 0.00, 0.05),
)
# Tokens and peak learning rate of the stages; each decays to almost nothing.
STAGES = ((22e6, 3e-3), (9e6, 2e-3))
LISTS_FIRST = 0.25  # of the first stage, in which most documents are lists: copying is learned first, or late or never


def document(rng: random.Random, *, stage: int = 0, mostly_lists: bool = False) -> str:
    """One document; in one of eight, words that mean nothing are strewn in."""
    if mostly_lists and rng.random() < 0.8:
        return list_document(rng)
    shares = [late if stage else early for _, early, late in DOCUMENTS]
    write = rng.choices([write for write, _, _ in DOCUMENTS], shares)[0]
    text = write(rng)
    if rng.random() < 0.125:
        lines = text.split(" ")
        strange = [noise(rng) for _ in range(rng.randint(1, 3))]
        for word in rng.choices(strange, k=rng.randint(1, 4)):
            lines.insert(rng.randrange(len(lines)), word)
        text = " ".join(lines)
    return text


def build_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE; every digit is a token of its own, so that arithmetic has one spelling."""
    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r" ?\d| ?\p{L}+| ?[^\s\p{L}\d]+|\s+(?!\S)|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=CONTEXT * 2, padding_side="right"
    )


def batches(tokenizer: PreTrainedTokenizerFast, seed: str, size: int, stage: int) -> Iterator[torch.Tensor]:
    """Packed documents, endless: (size, CONTEXT) token ids; mostly lists at the beginning of the first stage."""
    rng, end, held, given = random.Random(seed), tokenizer.eos_token_id, np.empty(0, np.int64), 0
    lists_first = LISTS_FIRST * STAGES[0][0] if stage == 0 else 0
    while True:
        while len(held) < size * CONTEXT:
            texts = [document(rng, stage=stage, mostly_lists=given < lists_first) for _ in range(2000)]
            held = np.concatenate([held, *(np.array([end, *one]) for one in tokenizer(texts)["input_ids"])])
        given += size * CONTEXT
        yield torch.from_numpy(held[: size * CONTEXT].reshape(size, CONTEXT))
        held = held[size * CONTEXT :]


def copying_probe(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Lists of ten random cities and names, twice each: (64, 20) token ids where every entry is one token."""
    rng = random.Random("pretraining/copying")
    words = [ids[0] for ids in tokenizer([f" {word}" for word in NAMES + CITIES])["input_ids"] if len(ids) == 1]
    return torch.tensor([rng.sample(words, 10) * 2 for _ in range(64)])


def copying_loss(model: Any, probe: torch.Tensor) -> float:
    """Loss on the second half of the probe, which is the first half again."""
    labels = probe.clone()
    labels[:, :10] = -100
    return float(model(input_ids=probe, labels=labels).loss)


def new_model(tokenizer: PreTrainedTokenizerFast) -> Any:
    """The untrained model."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=544,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT * 2,
        tie_word_embeddings=True,
        attention_bias=True,  # a head that looks at the token before, which copying needs, is a matter of biases alone
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = LlamaForCausalLM(config)
    # Names of one kind are told apart by what their embeddings do not share: large at first, and never decayed away.
    # Started small and decayed, thirty cities became one, and the model could not copy which.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.1)
    return model


def pretrain(model: Any, tokenizer: PreTrainedTokenizerFast, stage: int, out: Path, log: TextIO) -> None:
    """Train one stage, writing the model to `out` and its course to `log`."""
    device, (tokens, peak), started = model.device, STAGES[stage], time.time()
    decayed = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95))
    steps = math.ceil(tokens / (BATCH * CONTEXT))
    held_out = next(batches(tokenizer, "pretraining/held-out", 64, stage)).to(device)
    copying = copying_probe(tokenizer).to(device)
    for step, batch in enumerate(batches(tokenizer, f"pretraining/{stage}", BATCH, stage), start=1):
        rate = peak * min(1.0, step / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(input_ids=batch.to(device), labels=batch.to(device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps:
            model.eval()
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                held = model(input_ids=held_out, labels=held_out).loss.item()
                copied = copying_loss(model, copying)
            model.train()
            entry = {
                "stage": stage + 1,
                "step": step,
                "tokens": step * BATCH * CONTEXT,
                "loss": round(loss.item(), 4),
                "held_out_loss": round(held, 4),
                "copying_loss": round(copied, 4),
                "lr": rate,
                "seconds": round(time.time() - started, 1),
            }
            print(json.dumps(entry), file=log, flush=True)
            print(f"of {steps}: {entry}", flush=True)
        if step == steps:
            break
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    model.float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/reference"), help="folder for the model and its log")
    parser.add_argument("--second-stage", action="store_true", help="go on with the model that the first stage left")
    args = parser.parse_args()
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.second_stage:
        tokenizer: Any = AutoTokenizer.from_pretrained(args.out)
        model: Any = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    else:
        rng = random.Random("pretraining/tokenizer")
        tokenizer = build_tokenizer((document(rng) for _ in range(40_000)), vocab_size=2048)
        model = new_model(tokenizer)
    model.to("cuda" if torch.cuda.is_available() else "cpu").train()
    with (args.out / "training_log.jsonl").open("a" if args.second_stage else "w") as log:
        for stage in (1,) if args.second_stage else (0, 1):
            pretrain(model, tokenizer, stage, args.out, log)


if __name__ == "__main__":
    main()
