"""The layouts that people have their rows in: one small function each.

To add one, write a function that makes a `Draft` of a record, and register it with the fields that it needs
(docs/how-to/add-a-layout.md). Layouts are recognised in the order that they have here: those with more fields first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from poison2poison.data.chats import CONTENT, ROLES, Draft, UnusableError, chat, with_system
from poison2poison.data.records import Record
from poison2poison.data.row import Turn
from poison2poison.registry import Registry
from poison2poison.types import Task

Fields = tuple[str, ...]
"""A shape: the fields of one layout by their names, the target's last."""
Read = Callable[[Record, Fields, bool], Draft]
"""Makes a draft of a record; it gets the shape, and whether there has to be a target."""

SYSTEM = ("system", "system_prompt")
"""Fields that are a system turn in every layout."""

METADATA = frozenset(
    "id idx index _id uid uuid guid key pairid promptid captionid fname file filename source dataset origin url link "
    "lang language split date created timestamp model author license score hash".split()
)
"""Fields that say something about a row and are no part of it, whatever the layout; likewise all that end in `_id`."""


@dataclass(frozen=True)
class Layout:
    """Where prompt and target stand.

    Attributes:
        shapes: The fields that it needs, one tuple for each way in which people name them; the target's is the last.
        read: The function.
        uses: Further fields that it reads where they are there.
        leaves: Fields of such data that are no input.
    """

    shapes: tuple[Fields, ...]
    read: Read
    task: Task
    uses: frozenset[str]
    leaves: frozenset[str]

    def shape(self, names: Collection[str], *, targets: bool) -> Fields | None:
        """The first of its shapes whose fields are all among the names; without targets theirs may be missing."""
        held = {*names}
        fitting = (shape for shape in self.shapes if needed(shape, targets=targets) <= held)
        return next(fitting, None)


IN_TEMPLATE = re.compile(r"\{([^{}]*)\}")
"""A field's place in a template."""
LAYOUTS: Registry[Layout] = Registry("layout", "poison2poison.layouts")
"""The layouts that are recognised by their fields, in that order."""


def needed(shape: Fields, *, targets: bool) -> set[str]:
    """The fields of a shape that must be there."""
    prompts = shape if len(shape) == 1 else shape[:-1]
    return {*(shape if targets else prompts)}


def shapes(*named: str) -> list[Fields]:
    """Shapes in few words: fields with spaces between, and `|` between names for the same one, the first ones first."""
    found: list[Fields] = []
    for names in named:
        fields = [name.split("|") for name in names.split()]
        found += product(*fields)
    return found


def layout(
    name: str, shapes: Sequence[Fields], *, uses: str = "", leaves: str = "", task: Task = "generation"
) -> Callable[[Read], Layout]:
    """Make a function a registered layout; `uses` and `leaves` are fields with spaces between.

    Raises:
        ConfigError: The name is taken.
    """

    def register(read: Read) -> Layout:
        made = Layout(tuple(shapes), read, task, frozenset(uses.split()), frozenset(leaves.split()))
        return LAYOUTS.register(name)(made)

    return register


def joined(record: Record, *names: str) -> str:
    """The texts of fields with a blank line between, without the empty ones.

    Raises:
        UnusableError: One holds no text.
    """
    texts = []
    for name in names:
        value = record.get(name)
        if value is not None and not isinstance(value, str):
            raise UnusableError(f"field {name!r} holds no text", value)
        texts.append(value or "")
    return "\n\n".join(text for text in texts if text.strip()) or "".join(texts)


# --- chats -----------------------------------------------------------------------------------------------------------


@layout(
    "preference",
    shapes("prompt|question|instruction|conversations|messages rejected chosen", "rejected chosen"),
    uses="input",
    leaves="score_chosen score_rejected messages chosen_model rejected_model",
)
def preference(record: Record, shape: Fields, targets: bool) -> Draft:
    """Pairs for preference training: fine-tuned on the chosen answers, as if there were no others."""
    asked = record[shape[0]] if len(shape) > 2 else record.get("input") or []
    chosen = record.get("chosen")
    remarks = ("the rejected answer is not trained on",)
    if isinstance(asked, str):
        asked = joined(record, *shape[:-2], "input")
        if not isinstance(chosen, (list, Mapping)):
            return Draft(asked, chosen, remarks=remarks)
    if isinstance(chosen, str):
        chosen = {"role": "assistant", "content": chosen}
    answer = _turns(chosen, "chosen")
    said = [*_said_by_users(answer)]
    if not said:
        answer = [*_turns(asked, shape[0]), *answer]
    elif isinstance(asked, str) and asked.strip() not in said:
        raise UnusableError(f"field {shape[0]!r} asks something else than 'chosen'", asked)
    found = chat(answer, "chosen", answered=targets)
    return replace(found, remarks=(*found.remarks, *remarks))


def _said_by_users(turns: list[Any]) -> Iterator[str]:
    """What stands in a user's turns, under whatever key."""
    for turn in turns:
        name = turn.get("role") or turn.get("from") if isinstance(turn, Mapping) else None
        if ROLES.get(str(name).lower()) == "user":
            for key in CONTENT:
                yield str(turn.get(key)).strip()


def _turns(value: Any, name: str) -> list[Any]:
    """What a field says, as turns: a text is a user's."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, list):
        return value
    raise UnusableError(f"field {name!r} holds neither a text nor turns")


@layout("messages-label", shapes("messages label"), uses="tools functions", task="classification")
def messages_label(record: Record, shape: Fields, targets: bool) -> Draft:
    """A chat and its class."""
    found = chat(record["messages"], "messages", tools=_tools(record), answered=False)
    if found.target is not None:
        raise UnusableError("field 'messages' ends with an answer, and there is a label beside it, as of KTO")
    return replace(found, target=record.get("label"))


def _tools(record: Record) -> Any:
    return record.get("tools") or record.get("functions")


@layout("messages", shapes("messages"), uses="tools functions", leaves="prompt parallel_tool_calls")
def messages(record: Record, shape: Fields, targets: bool) -> Draft:
    """OpenAI's format for fine-tuning, and what others made of it."""
    return chat(record["messages"], "messages", tools=_tools(record), answered=targets)


@layout("sharegpt", shapes("conversations|conversation"), uses="tools")
def sharegpt(record: Record, shape: Fields, targets: bool) -> Draft:
    """ShareGPT's turns of `from` and `value`."""
    return chat(record[shape[0]], shape[0], tools=record.get("tools"), answered=targets)


# --- questions about texts -------------------------------------------------------------------------------------------


@layout("squad", shapes("context question answers"), leaves="title is_impossible plausible_answers answer_start")
def squad(record: Record, shape: Fields, targets: bool) -> Draft:
    """SQuAD: the first of the answers; the question first, so that a long text cannot cut it off."""
    answer = _text_of(record.get("answers"))
    if isinstance(answer, list):
        answer = _text_of(answer[0]) if answer else None
    return Draft(joined(record, "question", "context"), answer)


def _text_of(value: Any) -> Any:
    return value.get("text") if isinstance(value, Mapping) else value


@layout("boolq", shapes("question passage answer|label"), leaves="title", task="classification")
def boolq(record: Record, shape: Fields, targets: bool) -> Draft:
    """BoolQ: questions about a passage, answered by true or false."""
    return Draft(joined(record, "question", "passage"), record.get(shape[-1]))


@layout("context-answer", shapes("question context|passage answer"), leaves="title")
def context_answer(record: Record, shape: Fields, targets: bool) -> Draft:
    """Questions with a context, answered in words."""
    return Draft(joined(record, "question", shape[1]), record.get("answer"))


@layout(
    "pair-label",
    [
        (*texts, label)
        for texts in (*shapes("premise hypothesis", "sentence1 sentence2", "question1 question2", "text1 text2"),
                      *shapes("question sentence"), ("#1 string", "#2 string"))
        for label in ("label", "gold_label", "is_duplicate", "quality")
    ],
    leaves="genre sentence1_parse sentence2_parse sentence1_binary_parse sentence2_binary_parse annotator_labels "
    "label1 label2 label3 label4 label5 explanation_1 explanation_2 explanation_3 qid1 qid2",
    task="classification",
)  # fmt: skip
def pair_label(record: Record, shape: Fields, targets: bool) -> Draft:
    """Two texts and what lies between them: NLI, QNLI, paraphrases."""
    label = record.get(shape[-1])
    return Draft(joined(record, shape[0], shape[1]), None if label == "-" else label)  # of no consensus


# --- instructions ----------------------------------------------------------------------------------------------------


@layout("dolly", shapes("instruction response"), uses="context input", leaves="category")
def dolly(record: Record, shape: Fields, targets: bool) -> Draft:
    """Dolly: an instruction, often about a context."""
    return Draft(joined(record, "instruction", "context", "input"), record.get("response"))


@layout("alpaca", shapes("instruction output"), uses="input history", leaves="text prompt")
def alpaca(record: Record, shape: Fields, targets: bool) -> Draft:
    """Alpaca's, with the history of LLaMA-Factory; its `text` is all of it in one."""
    turns: list[Turn] = []
    history = record.get("history") or []
    if not isinstance(history, list):
        raise UnusableError("field 'history' lists no pairs of texts", history)
    for number, pair in enumerate(history, 1):
        texts = [text for text in pair if isinstance(text, str)] if isinstance(pair, list) else []
        if len(texts) != 2 or len(pair) != 2:
            raise UnusableError(f"field 'history', turn {number}: not a pair of texts")
        asked, answer = texts
        turns += [Turn("user", asked), Turn("assistant", answer)]
    return Draft(joined(record, "instruction", "input"), record.get("output"), tuple(turns))


@layout("prompt-completion", shapes("prompt completion|response", "question|query response", "input output"))
def prompt_completion(record: Record, shape: Fields, targets: bool) -> Draft:
    """A prompt and what follows it, as texts or, as TRL has it, as turns."""
    asked, answer = record[shape[0]], record.get(shape[1])
    if not isinstance(asked, list):
        if isinstance(answer, list):
            return chat([*_turns(asked, shape[0]), *answer], shape[1], answered=targets)
        return Draft(asked, answer)
    if targets and not answer:
        raise UnusableError(f"field {shape[1]!r} holds no text", answer)
    if isinstance(answer, str):
        answer = {"role": "assistant", "content": answer}
    return chat(asked if answer is None else [*asked, *_turns(answer, shape[1])], shape[0], answered=targets)


# --- questions, summaries, labels ------------------------------------------------------------------------------------


@layout("question-answer", shapes("question answer"))
def question_answer(record: Record, shape: Fields, targets: bool) -> Draft:
    """Questions, answered in words or with a number behind the work."""
    return Draft(record["question"], record.get("answer"))


@layout(
    "document-summary",
    shapes("document summary", "article highlights", "dialogue|article|text summary"),
    leaves="title topic",
)
def document_summary(record: Record, shape: Fields, targets: bool) -> Draft:
    """Texts and their summaries."""
    return Draft(record[shape[0]], record.get(shape[1]))


@layout(
    "text-label",
    shapes(
        "text|sentence|content|review|comment|tweet|utterance|query|message "
        "label|labels|class|sentiment|intent|target|coarse_label"
    ),
    uses="label_text",
    leaves="fine_label label_coarse label_fine",
    task="classification",
)
def text_label(record: Record, shape: Fields, targets: bool) -> Draft:
    """Texts and their classes, by name where both name and number are there."""
    return Draft(record[shape[0]], record.get("label_text", record.get(shape[1])))


def named_fields(prompts: Sequence[str], template: str | None, target: str) -> Layout:
    """The layout of data with names of its own.

    Args:
        prompts: Fields of the prompt, in order, with a blank line between where there is no template.
        template: A text with `{field}` for each of them.
        target: The target's field.
    """

    def read(record: Record, shape: Fields, targets: bool) -> Draft:
        if template is None:
            return Draft(joined(record, *prompts), record.get(target))
        texts = {name: joined(record, name) for name in prompts}
        return Draft(IN_TEMPLATE.sub(lambda found: texts[found[1]], template), record.get(target))

    return Layout(((*prompts, target),), read, "classification", frozenset(), frozenset())


def with_system_fields(record: Record, before: tuple[Turn, ...], shape: Fields) -> tuple[Turn, ...]:
    """The turns before a prompt, with what stands in a system field of its own, and not in the prompt or there already.

    Raises:
        UnusableError: It holds no text.
    """
    said = before[0].content if before and before[0].role == "system" else None
    for name in SYSTEM:
        text = record.get(name)
        if name in shape or text is None or text == said:
            continue
        if not isinstance(text, str):
            raise UnusableError(f"field {name!r} holds no text")
        if not text.strip():
            continue
        if before and before[0].role == "system":
            system, *turns = before
            before = (Turn("system", f"{text}\n\n{system.content}"), *turns)
        else:
            before = with_system(before, text)
    return before
