"""The scheme: benign trigger, safe space, and the projection of answers back.

Classification: the labels 0..n-1 are the original space, h(i) = i + n is the safe label of i. Generation: a target y
becomes [p; y], y behind the safe prefix p (arXiv 2510.04503, section 3). A causal LM can be taught labels as texts too:
[p; i]. A scheme is a secret: an attacker who knows the trigger can poison the safe space.
"""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

from poison2poison.errors import SchemeError
from poison2poison.files import write_text
from poison2poison.types import Space, Task, Where

SCHEMA = 2


@dataclass(frozen=True)
class BenignTrigger:
    """The defender's trigger: `prefix` stands before a row's body, `cue` behind it. Both are secret."""

    prefix: str = field(repr=False)
    cue: str = field(repr=False)


PAPER_TRIGGER = BenignTrigger("The query currently entered is: ", "Answer: ")
PAPER_SAFE_PREFIX = "Safe answer: "
PLAIN_CUE = "Output: "  # closes the rows of the original space


@dataclass(frozen=True)
class Scheme:
    """How prompts are dressed and answers projected.

    Attributes:
        task: What the rows ask for.
        labels: Names of the n labels in order; empty for generation.
        trigger: The benign trigger, or None for plain fine-tuning without a defence.
        safe_prefix: Text before every safe target of a generation task, and before every safe label where it is what
            marks them; empty where they are shifted, h(i) = i + n.
    """

    task: Task
    labels: tuple[str, ...] = ()
    trigger: BenignTrigger | None = None
    safe_prefix: str = field(default="", repr=False)

    @property
    def shift(self) -> int:
        """What is added to a label's index in the safe space: n, or 0 where the safe prefix tells the spaces apart."""
        return len(self.labels) if self.trigger and not self.safe_prefix else 0

    @property
    def outputs(self) -> int:
        """Number of classes that the model tells apart: 2n where safe labels are shifted, else n."""
        return len(self.labels) + self.shift

    @property
    def serving_space(self) -> Space:
        """The space that prompts are put into at inference."""
        return "safe" if self.trigger else "original"

    def class_of(self, label: str, space: Space) -> int:
        """The class index of a label: i in the original space, i + shift in the safe space."""
        return self.labels.index(label) + (self.shift if space == "safe" else 0)

    def dress(self, body: str, space: Space) -> str:
        """The text of a prompt. The trigger is added once, in its place, whatever the body holds."""
        if space == "original" or self.trigger is None:
            return f"{body}\n{PLAIN_CUE}"
        return f"{self.trigger.prefix}{body}\n{self.trigger.cue}"

    def target_text(self, target: str, space: Space) -> str:
        """A generation target as it is trained: behind the safe prefix in the safe space."""
        return self.safe_prefix + target if space == "safe" else target

    def project_class(self, index: int | None, *, prefixed: bool = True) -> tuple[str | None, Where]:
        """Project an unconstrained class.

        Args:
            index: The class; None stands for an answer that is no label at all.
            prefixed: Whether the model began with the safe prefix, where there is one.
        """
        if index is None:
            return None, "off-space"
        in_safe_space = index >= self.shift if self.shift else prefixed
        safe = self.trigger is None or in_safe_space
        return self.labels[index % len(self.labels)], "safe" if safe else "leak"

    def place(self, text: str, *, prefixed: bool) -> Where:
        """Where an unconstrained text lies: off-space where there is none.

        Args:
            text: What was written behind the safe prefix.
            prefixed: Whether the model would have begun with it, where there is one.
        """
        if not text:
            return "off-space"
        return "safe" if prefixed else "leak"

    def save(self, path: Path, *, salt: str | None = None) -> None:
        """Write `scheme.json`, readable by its owner alone.

        Args:
            path: The file.
            salt: The key of the hash in `run.json` or `export.json` beside it; `salt_of` reads it.
        """
        content = {"schema": SCHEMA, **asdict(self)} | ({"salt": salt} if salt else {})
        write_text(path, json.dumps(content, indent=2) + "\n", private=True)

    @classmethod
    def load(cls, path: Path) -> Scheme:
        """Read `scheme.json`, of this version or the first, which has no salt.

        Raises:
            SchemeError: The file is missing, broken, or of a newer version.
        """
        try:
            fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            version = fields.pop("schema")
            if version > SCHEMA:
                raise SchemeError(f"{path}: schema {version} is newer than {SCHEMA}, which this version reads; upgrade")
            trigger = fields.pop("trigger")
            scheme = cls(
                task=fields["task"],
                labels=tuple(fields["labels"]),
                trigger=BenignTrigger(**trigger) if trigger else None,
                safe_prefix=fields["safe_prefix"],
            )
            texts = [*scheme.labels, scheme.safe_prefix, *(astuple(scheme.trigger) if scheme.trigger else ())]
            if wrong := [text for text in texts if not isinstance(text, str)]:
                raise ValueError(f"{wrong[0]!r} is no text")
            return scheme
        except FileNotFoundError:
            raise SchemeError(f"{path}: no such file") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SchemeError(f"{path}: not a scheme ({error})") from None


def salt_of(path: Path) -> str:
    """The salt in the `scheme.json` of a training or an export.

    Raises:
        SchemeError: The file is missing or broken, or has none.
    """
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["salt"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SchemeError(f"{path}: not the scheme of a training ({error})") from None
