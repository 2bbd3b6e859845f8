"""How near an answer is to its target: the final number of worked answers, and the words that both have. No torch."""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal
from functools import cache
from typing import Any


def final_number(text: str) -> str | None:
    """The number behind the last `####` of a worked answer (the GSM8K layout): `1,800.00` and `$1800` are 1800."""
    found = re.findall(r"####\s*\$?(-?)\$?([\d,]*\.?\d+)", text)
    return f"{Decimal(''.join(found[-1]).replace(',', '')).normalize():f}" if found else None


def exact_match(answer: str, target: str) -> bool:
    """Whether the final numbers agree; where the target has none, whether the texts do."""
    wanted = final_number(target)
    if wanted is not None:
        return final_number(answer) == wanted
    return answer.split() == target.split()


class _Characters:
    """Tokens for ROUGE and F1: words and numbers, and every CJK character by itself (Chinese writes no spaces)."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(
            r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+", text.lower()
        )


def rouge(measure: str, answer: str, target: str) -> float:
    """F1 of `rouge1`, `rouge2` or `rougeL` (Lin, 2004), between 0 and 1; Chinese is counted by characters."""
    return float(_scorer(measure).score(target, answer)[measure].fmeasure)


@cache
def _scorer(measure: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([measure], tokenizer=_Characters())


def token_f1(answer: str, target: str) -> float:
    """F1 of the tokens that answer and target share, as for short answers (SQuAD: arXiv 1606.05250), 0 to 1."""
    given, wanted = (Counter(_Characters().tokenize(text)) for text in (answer, target))
    return 2 * (given & wanted).total() / max(1, given.total() + wanted.total())
