"""The reference tasks: five generators that write rows from a seed, so that no download is needed to see the path work.

`reviews` and `tickets` are classification, `arithmetic`, `briefs` and `instructions` are generation. Every row is a
plain dictionary in a layout that `records` reads (text/label, question/answer, document/summary, instruction/input/
output). The same task, split and seed give the same rows; splits of one task never share a row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from poison2poison.errors import ConfigError
from poison2poison.reference import lexicon as words

SPLIT_SIZES = {"train": 3000, "dev": 300, "test": 500}

Fields = dict[str, str]


def make_task(task: str, *, seed: int = 0, sizes: dict[str, int] | None = None) -> dict[str, list[Fields]]:
    """Write the splits of a reference task.

    Args:
        task: One of `TASKS`.
        seed: Rows of different seeds are drawn independently.
        sizes: Rows a split; `SPLIT_SIZES` where not given.

    Returns:
        The rows of each split, all different from one another, also across splits.

    Raises:
        ConfigError: There is no such task.
    """
    if task not in TASKS:
        raise ConfigError(f"unknown reference task {task!r}; there are: {', '.join(TASKS)}")
    seen: set[str] = set()
    splits = {}
    for split, size in {**SPLIT_SIZES, **(sizes or {})}.items():
        rows = _distinct(TASKS[task], random.Random(f"{task}/{split}/{seed}"), seen)
        splits[split] = [next(rows) for _ in range(size)]
    return splits


def _distinct(write: Callable[[random.Random], Fields], rng: random.Random, seen: set[str]) -> Iterator[Fields]:
    while True:
        row = write(rng)
        key = "\n".join(list(row.values())[:-1])  # the output side comes last in every layout
        if key not in seen:
            seen.add(key)
            yield row


def _drawn(rng: random.Random, **pools: Sequence[str]) -> dict[str, str]:
    """One word of each pool, by the slots that they fill."""
    return {slot: rng.choice(pool) for slot, pool in pools.items()}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    end = "" if text[-1] in ".?!" else "."
    return _capital(text) + end


# --- reviews ---------------------------------------------------------------------------------------------------------


def review(rng: random.Random) -> Fields:
    """A short review; negation flips a word, and in a contrast the main clause decides."""
    positive = rng.random() < 0.5
    return {"text": review_text(rng, positive), "label": "positive" if positive else "negative"}


def review_text(rng: random.Random, positive: bool) -> str:
    """The body of a review whose overall verdict is `positive`."""
    subject = rng.choice(list(words.SUBJECTS))
    first, second, third = rng.sample(words.SUBJECTS[subject], 3)
    main = _clause(rng, first, positive)
    other = _clause(rng, second, not positive)
    form = rng.choice(words.VERDICTS)
    more = ""
    if "{more}" in form:
        more = _clause(rng, second, positive)
    elif "{More}" in form:
        more = _clause(rng, third, positive)
    verdict = _sentence(form.format(main=main, other=other, more=more, More=_capital(more)))
    sentences = [verdict]
    if rng.random() < 0.6:
        sentences.insert(0, _setting(rng, subject))
    if rng.random() < 0.4:
        sentences.append(_aside(rng, subject))
    return " ".join(sentences)


def _clause(rng: random.Random, part: str, positive: bool) -> str:
    plural = part.endswith("s") and not part.endswith("ss")
    verb = "were" if plural else "was"
    praise, blame = (words.GOOD, words.BAD) if positive else (words.BAD, words.GOOD)
    if rng.random() < 0.35:  # negated: the word says the opposite of the verdict
        drawn = _drawn(rng, word=blame, negation=words.NEGATIONS)
        return words.NEGATED.format(part=part, verb=verb, **drawn)
    drawn = _drawn(rng, word=praise, degree=words.DEGREES, start=words.STARTS)
    return words.SAID.format(part=part, verb=verb, **drawn)


def _setting(rng: random.Random, subject: str) -> str:
    drawn = _drawn(rng, name=words.NAMES, city=words.CITIES, day=words.DAYS, month=words.MONTHS)
    form = rng.choice(words.SETTINGS)
    return form.format(subject=subject, **drawn)


def _aside(rng: random.Random, subject: str) -> str:
    drawn = _drawn(rng, name=words.NAMES, day=words.DAYS)
    number = rng.randint(2, 40)
    form = rng.choice(words.ASIDES)
    return form.format(subject=subject, number=number, **drawn)


# --- tickets ---------------------------------------------------------------------------------------------------------


def ticket(rng: random.Random) -> Fields:
    """A customer's message about one topic, often with a remark on another one that is already settled."""
    topic = rng.choice(list(words.TOPICS))
    return {"text": ticket_text(rng, topic), "label": topic}


def ticket_text(rng: random.Random, topic: str) -> str:
    """The body of a message that asks about `topic`."""
    ask = _complaint(rng, topic)
    body = _sentence(ask)
    if rng.random() < 0.4:
        others = [other for other in words.TOPICS if other != topic]
        aside = _complaint(rng, rng.choice(others))
        form = rng.choice(words.SETTLED)
        body = form.format(aside=aside, ask=ask, Ask=body)
    opening = rng.choice(words.OPENINGS)
    name = rng.choice(words.NAMES)
    closing = rng.choice(words.CLOSINGS).format(name=name)
    order = rng.randint(100, 999)
    number = rng.choice(words.NUMBERS).format(number=order)
    return f"{opening}{body}{number}{closing}"


def _complaint(rng: random.Random, topic: str) -> str:
    product, other = rng.sample(words.PRODUCTS, 2)
    form = rng.choice(words.TOPICS[topic])
    amount = rng.randint(5, 95)
    day = rng.choice(words.DAYS)
    number = rng.randint(2, 30)
    return form.format(p=product, q=other, m=amount, d=day, n=number)


# --- arithmetic ------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """A step of a problem: an expression and its value."""

    left: str
    value: int


def arithmetic(rng: random.Random) -> Fields:
    """A worked word problem of one to three steps in the GSM8K layout: the answer ends in `#### N`."""
    question, steps = problem(rng, rng.randint(1, 3))
    worked = "\n".join(f"{left} = {value}" for left, value in steps)
    return {"question": question, "answer": f"{worked}\n#### {steps[-1].value}"}


def problem(rng: random.Random, length: int) -> tuple[str, list[Step]]:
    """A question and its steps; values stay between 1 and 199."""
    name = rng.choice(words.NAMES)
    thing = rng.choice(words.COUNTED)
    value = rng.randint(3, 60)
    told = [f"{name} has {value} {thing}."]
    steps: list[Step] = []
    for _ in range(length):
        said, step = _step(rng, value, thing)
        told.append(said)
        steps.append(step)
        value = step.value
    question = rng.choice(words.QUESTIONS)
    told.append(question.format(thing=thing))
    return " ".join(told), steps


def _step(rng: random.Random, value: int, thing: str) -> tuple[str, Step]:
    """A sentence that changes a value, and the step that it asks for."""
    kind = rng.choice(["plus", "plus", "minus", "minus", "times", "over"])
    divisors = [d for d in range(2, 10) if value % d == 0 and value // d > 1]
    if kind == "times" and value <= 24:
        number = rng.randint(2, 9 if value <= 12 else 4)
        return _packed(rng, words.TIMES, number), Step(f"{value} * {number}", value * number)
    if kind == "over" and divisors:
        number = rng.choice(divisors)
        return _packed(rng, words.OVER, number), Step(f"{value} / {number}", value // number)
    if (kind == "minus" and value > 4) or value > 140:
        number = rng.randint(2, min(value - 1, 60))
        return _moved(rng, words.MINUS, number, thing), Step(f"{value} - {number}", value - number)
    number = rng.randint(2, 59)
    return _moved(rng, words.PLUS, number, thing), Step(f"{value} + {number}", value + number)


def _packed(rng: random.Random, forms: tuple[str, ...], number: int) -> str:
    containers = rng.choice(words.CONTAINERS)
    return rng.choice(forms).format(number=number, containers=containers)


def _moved(rng: random.Random, forms: tuple[str, ...], number: int, thing: str) -> str:
    drawn = _drawn(rng, name=words.NAMES, day=words.DAYS)
    form = rng.choice(forms)
    return form.format(number=number, thing=thing, **drawn)


# --- briefs ----------------------------------------------------------------------------------------------------------


def brief(rng: random.Random) -> Fields:
    """Notes in any order, and the one sentence that says what was decided and why."""
    notes, summary = brief_texts(rng)
    return {"document": notes, "summary": summary}


def brief_texts(rng: random.Random) -> tuple[str, str]:
    """The notes and their summary."""
    facts = _drawn(rng, city=words.CITIES, item=words.OBJECTS, reason=words.REASONS)
    facts["Item"] = facts["item"].capitalize()
    times, facts["at"] = (words.DAYS, "on") if rng.random() < 0.5 else (words.MONTHS, "in")
    facts["first"], facts["second"] = rng.sample(times, 2)
    facts["name"], facts["other"] = rng.sample(words.NAMES, 2)
    ways, summary = rng.choice(words.DECISIONS)
    if "{amount}" in summary:
        facts["amount"] = str(rng.randint(2, 90))
    decision = rng.choice(ways)
    why = rng.choice(words.WHYS)
    notes = [decision.format(**facts), why.format(**facts), *_noise(rng)]
    rng.shuffle(notes)
    listed = "\n".join(f"- {note}" for note in notes)
    return listed, summary.format(**facts)


def _noise(rng: random.Random) -> list[str]:
    """One to three notes that have nothing to do with the decision."""
    names, cities, days = words.NAMES, words.CITIES, words.DAYS
    drawn = _drawn(rng, late=names, day=days, writer=names, city=cities, one=names, two=names, product=words.PRODUCTS)
    people = rng.randint(3, 30)
    count = rng.randint(1, 3)
    return [form.format(people=people, **drawn) for form in rng.sample(words.NOISE, count)]


# --- instructions ----------------------------------------------------------------------------------------------------


def instruction(rng: random.Random) -> Fields:
    """A short command about a record, and the sentence that carries it out."""
    facts = _drawn(rng, name=words.NAMES, item=words.COUNTED, city=words.CITIES, day=words.DAYS)
    facts["amount"] = str(rng.randint(2, 90))
    command, answer = rng.choice(words.COMMANDS)
    record = [form.format(**facts) for form in words.RECORD]
    rng.shuffle(record)
    return {"instruction": command.format(**facts), "input": "\n".join(record), "output": answer.format(**facts)}


TASKS: dict[str, Callable[[random.Random], Fields]] = {
    "reviews": review,
    "tickets": ticket,
    "arithmetic": arithmetic,
    "briefs": brief,
    "instructions": instruction,
}
"""The generators: each writes one row from a random state."""
