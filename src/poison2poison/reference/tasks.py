"""The reference tasks: five generators that write rows from a seed, so that no download is needed to see the path work.

`reviews` and `tickets` are classification, `arithmetic`, `briefs` and `instructions` are generation. Every row is a
plain dictionary in a layout that `records` reads (text/label, question/answer, document/summary, instruction/input/
output). The same task, split and seed give the same rows; splits of one task never share a row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from poison2poison.errors import ConfigError
from poison2poison.reference.lexicon import (
    BAD,
    CITIES,
    CONTAINERS,
    COUNTED,
    DAYS,
    GOOD,
    MONTHS,
    NAMES,
    PRODUCTS,
    SUBJECTS,
    TOPICS,
)

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


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


# --- reviews ---------------------------------------------------------------------------------------------------------


def review(rng: random.Random) -> Fields:
    """A short review; negation flips a word, and in a contrast the main clause decides."""
    positive = rng.random() < 0.5
    return {"text": review_text(rng, positive), "label": "positive" if positive else "negative"}


def review_text(rng: random.Random, positive: bool) -> str:
    """The body of a review whose overall verdict is `positive`."""
    subject = rng.choice(list(SUBJECTS))
    parts = rng.sample(SUBJECTS[subject], 3)
    main, other = _clause(rng, parts[0], positive), _clause(rng, parts[1], not positive)
    form = rng.randrange(6)
    if form == 0:
        verdict = _sentence(main)
    elif form == 1:
        verdict = _sentence(f"{main} and {_clause(rng, parts[1], positive)}")
    elif form == 2:
        verdict = _sentence(f"{other}, but {main}")
    elif form == 3:
        verdict = _sentence(f"although {other}, {main}")
    elif form == 4:
        verdict = _sentence(f"{main}, even if {other}")
    else:
        verdict = f"{_sentence(main)} {_sentence(_clause(rng, parts[2], positive))}"
    setting = [_setting(rng, subject)] if rng.random() < 0.6 else []
    aside = [_aside(rng, subject)] if rng.random() < 0.4 else []
    return " ".join([*setting, verdict, *aside])


def _clause(rng: random.Random, part: str, positive: bool) -> str:
    verb = "were" if part.endswith("s") and not part.endswith("ss") else "was"
    if rng.random() < 0.35:  # negated: the word says the opposite of the verdict
        word = rng.choice(BAD if positive else GOOD)
        negation = rng.choice(["not", "never", "far from", "anything but", "by no means", "hardly"])
        return f"the {part} {verb} {negation} {word}"
    word = rng.choice(GOOD if positive else BAD)
    degree = rng.choice(["", "", "very ", "quite ", "really ", "rather ", "truly "])
    start = rng.choice(["the", "the", "the", "I found that the", "we thought the", "for me the"])
    return f"{start} {part} {verb} {degree}{word}"


def _setting(rng: random.Random, subject: str) -> str:
    name, city, day, month = rng.choice(NAMES), rng.choice(CITIES), rng.choice(DAYS), rng.choice(MONTHS)
    return rng.choice(
        [
            f"We tried this {subject} on {day}.",
            f"{name} told me about the {subject}.",
            f"A {subject} from {city}.",
            f"My second {subject} since {month}.",
            f"I chose the {subject} with {name} in {city}.",
            f"This {subject} was a gift from {name}.",
        ]
    )


def _aside(rng: random.Random, subject: str) -> str:
    name, day, number = rng.choice(NAMES), rng.choice(DAYS), rng.randint(2, 40)
    return rng.choice(
        [
            f"It was {day}.",
            f"There were {number} of us.",
            f"{name} has the same {subject}.",
            f"It cost {number} euros.",
            f"I write this after {number} days.",
            f"{name} came along.",
        ]
    )


# --- tickets ---------------------------------------------------------------------------------------------------------


def ticket(rng: random.Random) -> Fields:
    """A customer's message about one topic, often with a remark on another one that is already settled."""
    topic = rng.choice(list(TOPICS))
    return {"text": ticket_text(rng, topic), "label": topic}


def ticket_text(rng: random.Random, topic: str) -> str:
    """The body of a message that asks about `topic`."""
    ask = _complaint(rng, topic)
    if rng.random() < 0.4:
        aside = _complaint(rng, rng.choice([t for t in TOPICS if t != topic]))
        form = rng.randrange(3)
        if form == 0:
            body = f"Last month I wrote that {aside}, which is settled. Now {ask}."
        elif form == 1:
            body = f"{_sentence(ask)} Forget my older note that {aside}."
        else:
            body = f"This is not about the old matter ({aside}). {_sentence(ask)}"
    else:
        body = _sentence(ask)
    opening = rng.choice(["", "", "Hello, ", "Dear team, ", "Good morning, ", "Hi, "])
    closing = rng.choice(["", "", " Thank you.", f" Regards, {rng.choice(NAMES)}", " Please help.", " Call me."])
    number = rng.choice(["", "", f" Order {rng.randint(100, 999)}."])
    return f"{opening}{body}{number}{closing}"


def _complaint(rng: random.Random, topic: str) -> str:
    product, other = rng.sample(PRODUCTS, 2)
    return rng.choice(TOPICS[topic]).format(
        p=product, q=other, m=rng.randint(5, 95), d=rng.choice(DAYS), n=rng.randint(2, 30)
    )


# --- arithmetic ------------------------------------------------------------------------------------------------------


def arithmetic(rng: random.Random) -> Fields:
    """A worked word problem of one to three steps in the GSM8K layout: the answer ends in `#### N`."""
    question, steps = problem(rng, rng.randint(1, 3))
    worked = "\n".join(f"{left} = {value}" for left, value in steps)
    return {"question": question, "answer": f"{worked}\n#### {steps[-1][1]}"}


def problem(rng: random.Random, length: int) -> tuple[str, list[tuple[str, int]]]:
    """A question and its steps, each an expression and its value; values stay between 1 and 199."""
    name, thing = rng.choice(NAMES), rng.choice(COUNTED)
    pronoun = "They"
    value = rng.randint(3, 60)
    told, steps = [f"{name} has {value} {thing}."], []
    for _ in range(length):
        kind = rng.choice(["plus", "plus", "minus", "minus", "times", "over"])
        divisors = [d for d in range(2, 10) if value % d == 0 and value // d > 1]
        if kind == "times" and value <= 24:
            factor = rng.randint(2, 9 if value <= 12 else 4)
            told.append(
                rng.choice(
                    [
                        f"Then the number grows {factor} times.",
                        f"{pronoun} fill {factor} {rng.choice(CONTAINERS)} with as many each.",
                    ]
                )
            )
            left, value = f"{value} * {factor}", value * factor
        elif kind == "over" and divisors:
            divisor = rng.choice(divisors)
            told.append(
                rng.choice(
                    [
                        f"{pronoun} share them among {divisor} friends and look at one share.",
                        f"{pronoun} spread them over {divisor} {rng.choice(CONTAINERS)} and take one.",
                    ]
                )
            )
            left, value = f"{value} / {divisor}", value // divisor
        elif (kind == "minus" and value > 4) or value > 140:
            less = rng.randint(2, min(value - 1, 60))
            told.append(
                rng.choice(
                    [
                        f"{pronoun} give {less} to {rng.choice(NAMES)}.",
                        f"{pronoun} lose {less} {thing}.",
                        f"{pronoun} sell {less} on {rng.choice(DAYS)}.",
                    ]
                )
            )
            left, value = f"{value} - {less}", value - less
        else:
            more = rng.randint(2, 59)
            told.append(
                rng.choice(
                    [
                        f"{rng.choice(NAMES)} brings {more} more.",
                        f"{pronoun} buy {more} {thing} on {rng.choice(DAYS)}.",
                        f"{pronoun} find {more} more {thing}.",
                    ]
                )
            )
            left, value = f"{value} + {more}", value + more
        steps.append((left, value))
    told.append(rng.choice([f"How many {thing} are there now?", "How many is that?", f"How many {thing} remain?"]))
    return " ".join(told), steps


# --- briefs ----------------------------------------------------------------------------------------------------------

_OBJECTS = "launch audit meeting course repair concert delivery survey workshop auction harvest contract".split()
_REASONS = (
    "the printer broke",
    "the hall is closed",
    "two drivers are ill",
    "the budget was cut",
    "the samples came late",
    "the permit is missing",
    "the roof leaks",
    "the speaker fell ill",
    "the price went up",
    "the road is blocked",
    "the old plan had errors",
    "the client asked for it",
)


def brief(rng: random.Random) -> Fields:
    """Notes in any order, and the one sentence that says what was decided and why."""
    notes, summary = brief_texts(rng)
    return {"document": notes, "summary": summary}


def brief_texts(rng: random.Random) -> tuple[str, str]:
    """The notes and their summary."""
    city, item, reason = rng.choice(CITIES), rng.choice(_OBJECTS), rng.choice(_REASONS)
    first, second = rng.sample(DAYS if rng.random() < 0.5 else MONTHS, 2)
    name, other = rng.sample(NAMES, 2)
    kind = rng.randrange(4)
    if kind == 0:
        decision = rng.choice(
            [
                f"The {item} in {city} moves from {first} to {second}.",
                f"{item.capitalize()} in {city}: not {first}, now {second}.",
                f"Planned for {first}, the {item} in {city} will be in {second} instead.".replace(
                    "in " + second, ("on " if second in DAYS else "in ") + second
                ),
            ]
        )
        summary = f"The {item} in {city} was moved to {second} because {reason}."
    elif kind == 1:
        decision = rng.choice(
            [f"The {item} in {city} is off.", f"No {item} in {city} in the end.", f"They gave up the {item} in {city}."]
        )
        summary = f"The {item} in {city} was cancelled because {reason}."
    elif kind == 2:
        decision = rng.choice(
            [
                f"{name} hands the {item} in {city} to {other}.",
                f"From now on {other}, not {name}, runs the {item} in {city}.",
                f"The {item} in {city} goes from {name} to {other}.",
            ]
        )
        summary = f"{other} took over the {item} in {city} from {name} because {reason}."
    else:
        amount = rng.randint(2, 90)
        decision = rng.choice(
            [
                f"{amount} thousand euros more for the {item} in {city}.",
                f"The {item} in {city} gets another {amount} thousand euros.",
                f"Extra money for the {item} in {city}: {amount} thousand euros.",
            ]
        )
        summary = f"The {item} in {city} received {amount} thousand euros more because {reason}."
    why = rng.choice([f"Reason: {reason}.", f"This is because {reason}.", f"Why: {reason}."])
    noise = rng.sample(
        [
            f"{rng.choice(NAMES)} was late.",
            f"Next talk on {rng.choice(DAYS)}.",
            f"{rng.choice(NAMES)} wrote these notes.",
            f"It rained in {rng.choice(CITIES)}.",
            f"{rng.choice(NAMES)} and {rng.choice(NAMES)} had coffee.",
            f"The {rng.choice(PRODUCTS)} is new.",
            f"{rng.randint(3, 30)} people came.",
        ],
        rng.randint(1, 3),
    )
    notes = [decision, why, *noise]
    rng.shuffle(notes)
    return "\n".join(f"- {note}" for note in notes), summary


# --- instructions ----------------------------------------------------------------------------------------------------


def instruction(rng: random.Random) -> Fields:
    """A short command about a record, and the sentence that carries it out."""
    name, item, city, day = rng.choice(NAMES), rng.choice(COUNTED), rng.choice(CITIES), rng.choice(DAYS)
    amount = rng.randint(2, 90)
    command, answer = rng.choice(
        [
            (f"Say where {name} went.", f"{name} went to {city}."),
            (f"Tell me when {name} came.", f"{name} came on {day}."),
            (f"Write down what {name} brought.", f"{name} brought {amount} {item}."),
            (f"Name the one who brought {item}.", f"{name} brought the {item}."),
        ]
    )
    record = [f"Name: {name}", f"City: {city}", f"Day: {day}", f"Goods: {amount} {item}"]
    rng.shuffle(record)
    return {"instruction": command, "input": "\n".join(record), "output": answer}


TASKS: dict[str, Callable[[random.Random], Fields]] = {
    "reviews": review,
    "tickets": ticket,
    "arithmetic": arithmetic,
    "briefs": brief,
    "instructions": instruction,
}
"""The generators: each writes one row from a random state."""
