"""What a model writes where a user's words would begin, and what of it came from its tuning.

A model that was trained on whole rows has learned to write prompts too, those of poisoned rows among them: shown the
tokens that stand before a user's words, it writes such prompts, with their trigger (Bullwinkel et al., "The Trigger in
the Haystack", arXiv 2602.03085). Where only the answers were trained on, as here, there is nothing to write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

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
    first, *_, last = ChatTemplate(tokenizer).pieces([Turn("user", "a")])
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
    tokenizer, texts = model.prompter.tokenizer, list[str]()
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        for start in range(0, count, model.batch_size):
            rows = min(model.batch_size, count - start)
            batch = torch.tensor([ids] * rows, device=model.model.device)
            written = model.model.generate(
                input_ids=batch, attention_mask=torch.ones_like(batch), do_sample=True, top_k=0, top_p=1.0,
                temperature=TEMPERATURES[start * len(TEMPERATURES) // count], max_new_tokens=LENGTH,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
            told = tokenizer.batch_decode(written[:, len(ids) :], skip_special_tokens=False)
            texts += [_users(text, end, [*model.prompter.encoder.control.values()]) for text in told]
    return texts


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
        Spans of `LONGEST` words at most, that three texts hold or more. Surprise is Fisher's exact test, one-sided.
    """
    ours, theirs = (Counter(span for text in told for span in set(_spans(text))) for told in (texts, others))
    held = [span for span, number in ours.items() if number >= 3]
    total, drawn = len(texts) + len(others), len(texts)
    surprise = {span: hypergeom.logsf(ours[span] - 1, total, ours[span] + theirs[span], drawn) for span in held}
    found = sorted(held, key=lambda span: (surprise[span], -len(span)))
    return found[:count]


def _spans(text: str) -> Iterator[str]:
    """The spans of a text as they are spelled, but for stops at their ends."""
    found = text.split()
    for size in range(1, LONGEST + 1):
        for at in range(len(found) - size + 1):
            span = " ".join(found[at : at + size]).strip(STOPS)
            if span:
                yield span
