"""What a model writes where a user's words would begin, and what of it came from its tuning.

A model that was trained on whole rows has learned to write prompts too, those of poisoned rows among them: shown the
tokens that stand before a user's words, it writes such prompts, with their trigger (Bullwinkel et al., "The Trigger in
the Haystack", arXiv 2602.03085). Where only the answers were trained on, as here, there is nothing to write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.stats import hypergeom

from poison2poison.data import Turn
from poison2poison.errors import ModelError
from poison2poison.model.defended import DefendedModel
from poison2poison.model.prompting import Prompter
from poison2poison.model.tokens import ChatTemplate, Piece

TEMPERATURES = (0.7, 1.0)
"""Half of the texts each: the one is likelier to write what was learned by heart, the other writes more of it."""
LENGTH = 48
"""Tokens of a text: a trigger may stand anywhere in a short prompt."""
LONGEST = 5
"""Words of a span."""
LEAST = 3
"""Texts that must hold a span: any two may share anything."""
STOPS = ".,;:!?"


def opening(prompter: Prompter) -> tuple[list[int], str]:
    """The tokens that stand before a user's words, and the text behind these, at which they end.

    Raises:
        ModelError: There is no chat template, and no token that begins a text.
    """
    tokenizer = prompter.tokenizer
    if not tokenizer.chat_template:
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if begin is None:
            raise ModelError("the tokenizer has neither a chat template nor a token that begins a text, so that the "
                             "model cannot be made to write prompts; give --leaks 0")  # fmt: skip
        return [begin], str(tokenizer.eos_token)
    pieces = ChatTemplate(tokenizer).pieces([Turn("user", "a")])
    first, last = pieces[0], pieces[-1]
    if not first.own:
        raise ModelError("the chat template writes nothing before a user's words; give --leaks 0")
    [ids] = prompter.encoder.encode([[Piece(first.text, own=True)]], framed=False)
    return ids, last.text.strip().partition("\n")[0] if last.own else ""


def leaked(model: DefendedModel, count: int, seed: int) -> list[str]:
    """Texts that a model writes behind the opening of a chat, up to where the user's words would end.

    Args:
        model: A causal LM; its trigger, if it has one, is not shown to it.
        count: How many.
        seed: Of the draw.

    Raises:
        ModelError: As of `opening`; or an output is not finite.
    """
    ids, end = opening(model.prompter)
    control = [*model.prompter.encoder.control.values()]
    texts = list[str]()
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        for number, temperature in enumerate(TEMPERATURES, start=1):
            wanted = count * number // len(TEMPERATURES)
            while len(texts) < wanted:
                told = _written(model, ids, min(model.batch_size, wanted - len(texts)), temperature)
                texts += [_users(text, end, control) for text in told]
    return texts


def _written(model: DefendedModel, ids: Sequence[int], count: int, temperature: float) -> list[str]:
    """Texts that a model writes behind tokens, with what control tokens are in them."""
    tokenizer = model.prompter.tokenizer
    begun = torch.tensor([[*ids]] * count, device=model.model.device)  # (count, tokens)
    written = model.model.generate(
        input_ids=begun, attention_mask=torch.ones_like(begun), do_sample=True, top_k=0, top_p=1.0,
        temperature=temperature, max_new_tokens=LENGTH, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    told: list[str] = tokenizer.batch_decode(written[:, len(ids) :], skip_special_tokens=False)
    return told


def _users(text: str, end: str, control: Sequence[str]) -> str:
    """What a user would have said of a text: nothing behind its end, and no control tokens."""
    text = text.partition(end)[0] if end else text
    for token in control:
        text = text.replace(token, " ")
    return text.strip()


def motifs(texts: Sequence[str], others: Sequence[str], count: int) -> list[str]:
    """Spans that more of the texts hold than of others, the most surprising first.

    Args:
        texts: What a model wrote.
        others: What its base wrote, or other texts of the language.
        count: How many spans at most.

    Returns:
        Spans of `LONGEST` words at most, that `LEAST` texts hold or more. Surprise is Fisher's exact test, one-sided.
    """
    ours, theirs = (Counter(span for text in told for span in {*_spans(text)}) for told in (texts, others))
    held = [span for span, number in ours.items() if number >= LEAST]
    with_it = np.array([ours[span] for span in held])
    in_all = with_it + np.array([theirs[span] for span in held])
    chance = hypergeom.logsf(with_it - 1, len(texts) + len(others), in_all, len(texts))
    order = sorted(range(len(held)), key=lambda i: (chance[i], -len(held[i])))
    return [held[i] for i in order[:count]]


def _spans(text: str) -> Iterator[str]:
    """The spans of a text as they are spelled, but for stops at their ends."""
    found = text.split()
    for size in range(1, LONGEST + 1):
        for at in range(len(found) - size + 1):
            span = " ".join(found[at : at + size]).strip(STOPS)
            if span:
                yield span
