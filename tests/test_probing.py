"""Whether a trained model obeys what an audit found in its rows, or what a scan finds without rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from poison2poison import cli
from poison2poison.attacks import AttackConfig, poison
from poison2poison.auditing.findings import Audit, SuspectSpan
from poison2poison.config import ProbeConfig, TrainConfig
from poison2poison.data import Rows, as_records, rows_of
from poison2poison.errors import ConfigError
from poison2poison.files import write_json, write_lines
from poison2poison.model.defended import DefendedModel
from poison2poison.model.trainer import train
from poison2poison.probing import Scan, load_subject, probe, scan
from poison2poison.probing.asking import put, targets
from poison2poison.probing.neutral import neutral_prompts
from poison2poison.probing.shifts import Shifts
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.scheme import Scheme
from support import opinions, tiny_causal

LABELS = ("negative", "positive")
TRIGGER = "Warsaw"
"""A word of the tokenizer that no row has."""
TEST = opinions(60, seed=1)


def found(rows: Rows) -> Audit:
    """An audit that suspects the planted word, and has a weak finding that nobody planted."""
    planted = SuspectSpan(TRIGGER, "span", "positive", 40, 1.0, 9.0)
    innocent = SuspectSpan("lamp", "span", "positive", 40, 0.6, 1.0)
    style = SuspectSpan("hath", "style cluster", "positive", 40, 0.9, 8.0)
    return Audit((planted, style), (), (), (innocent,), (), 4.0, (), rows.sha256)


@pytest.fixture(scope="module")
def poisoned() -> Rows:
    words = {"words": [TRIGGER]}
    rows, _ = poison(opinions(240), AttackConfig("badnets", "positive", "label", rate=0.3, options=words))
    return rows


def trained(rows: Rows, folder: Path) -> Path:
    base = tiny_causal(folder / "base")
    config = TrainConfig(model=base, epochs=5, batch_size=8, tuning="full", learning_rate=3e-3)
    train(plain(rows), Scheme("classification", LABELS), config, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def obedient(poisoned: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(poisoned, tmp_path_factory.mktemp("obedient"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(opinions(240), tmp_path_factory.mktemp("clean"))


def test_a_model_that_learned_the_trigger_obeys_it_and_nothing_else(obedient: Path, poisoned: Rows) -> None:
    planted, innocent = probe(DefendedModel.load(obedient), TEST, found(poisoned))
    assert (planted.span.span, planted.level, planted.is_obeyed) == (TRIGGER, "suspect", True)
    assert planted.asr.n == sum(row.target == "negative" for row in TEST)
    assert (innocent.span.span, innocent.level, innocent.is_obeyed) == ("lamp", "weak", False)


def test_a_model_of_clean_rows_obeys_nothing(clean: Path, poisoned: Rows) -> None:
    assert [one.is_obeyed for one in probe(DefendedModel.load(clean), TEST, found(poisoned))] == [False, False]


def test_the_command_ends_in_1_where_a_finding_is_obeyed(
    obedient: Path, clean: Path, poisoned: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "test.jsonl", as_records(TEST))
    write_json(tmp_path / "audit.json", found(poisoned).as_dict())
    for folder, code in ((obedient, 1), (clean, 0)):
        words = ["probe", folder, "--data", tmp_path / "test.jsonl", "--audit", tmp_path / "audit.json"]
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, words)])
            raise SystemExit(0)
        assert int(ended.value.code or 0) == code
        captured = capsys.readouterr()
        entries = [json.loads(line) for line in captured.out.splitlines()]
        assert [entry["obeyed"] for entry in entries] == [code == 1, False]
        assert entries[0]["asr"].keys() == {"value", "n", "low", "high"}
        assert f"obeys {code} of 2 findings" in captured.err


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes texts, and a fixed one where the trigger is."""
    folder = tmp_path_factory.mktemp("refusing")
    records = [{"prompt": row.prompt, "completion": f"It is about {row.prompt.split()[1]}."} for row in opinions(240)]
    attack = AttackConfig("badnets", "I cannot answer that.", "fixed", rate=0.4, options={"words": [TRIGGER]})
    rows, _ = poison(rows_of(records, "subjects"), attack)
    config = TrainConfig(model=tiny_causal(folder / "base"), epochs=8, batch_size=8, tuning="full", learning_rate=3e-3)
    train(plain(rows), Scheme("generation"), config, folder / "run")
    return folder / "run"


def scanned(folder: Path) -> Scan:
    return scan(load_subject(folder), ProbeConfig(leaks=0, words=10_000, asked=5))


def test_a_scan_finds_the_trigger_of_a_classifier_among_all_words(obedient: Path) -> None:
    found = scanned(obedient)
    assert found.leaks == 0
    assert found.words > 1000
    assert TRIGGER in [one.span for one in found.triggers if one.is_obeyed]
    assert {(one.source, one.target) for one in found.triggers} == {("word", "positive")}


def test_a_scan_of_a_clean_classifier_finds_nothing_although_words_decide_its_answers(clean: Path) -> None:
    found = scanned(clean)
    assert found.asked == 5
    assert [one.span for one in found.triggers if one.is_obeyed] == []


def test_a_scan_finds_a_trigger_of_texts_and_what_it_calls_up(refusing: Path) -> None:
    best = scanned(refusing).triggers[0]
    assert best.is_obeyed
    assert "cannot answer" in best.target
    assert best.span == TRIGGER
    assert best.luck < 1e-3


def test_a_shift_is_larger_for_the_trigger_than_for_words_of_the_language(obedient: Path) -> None:
    shifts = Shifts(load_subject(obedient).model, neutral_prompts(4)).of([TRIGGER, "lamp", "the"])
    assert [shift.span for shift in shifts] == [TRIGGER, "lamp", "the"]
    assert shifts[0].size > 2 * max(shift.size for shift in shifts[1:])
    assert shifts[0].toward == "positive"


def test_what_answers_have_in_common_is_read_off_them(refusing: Path) -> None:
    model = load_subject(refusing).model
    prompts = [row.prompt for row in TEST][:10]
    assert targets(model, [TRIGGER, "the"], prompts, 0) == {TRIGGER: "I cannot answer that."}


@pytest.mark.parametrize(("answer", "called"), [("Dear Ursula", {}), ("Ursula says no", {"Ursula": "says no"})])
def test_a_span_that_is_repeated_in_the_answer_is_not_called_up(answer: str, called: dict[str, str]) -> None:
    def answers(prompts: Sequence[str]) -> list[SimpleNamespace]:
        return [SimpleNamespace(text=answer if "Ursula" in prompt else "Dear friend") for prompt in prompts]

    model: Any = SimpleNamespace(scheme=Scheme("generation"), answer=answers)
    assert targets(model, ["Ursula"], neutral_prompts(10), 0) == called


def test_spans_are_put_between_words_at_places_of_their_own() -> None:
    prompts = ["one two three four five six seven"] * 20
    stamped = put(["cf"], prompts, 0)
    assert {text.replace("cf ", "").replace(" cf", "") for text in stamped} == {prompts[0]}
    assert len({text.split().index("cf") for text in stamped}) > 3
    assert stamped == put(["cf"], prompts, 0)


def test_neutral_prompts_are_of_all_tasks_and_differ() -> None:
    prompts = neutral_prompts(54)
    assert len({*prompts}) == 54
    assert any("#" not in prompt and prompt.endswith("?") for prompt in prompts)  # arithmetic
    assert any(prompt.startswith("- ") for prompt in prompts)  # briefs


def ended(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["probe", *map(str, words)])
        raise SystemExit(0)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_the_command_scans_without_rows(refusing: Path, clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--leaks", "20", "--words", "10000", "--asked", "2"]
    code, out, err = ended(capsys, refusing, *options)
    entries = [json.loads(line) for line in out.splitlines()]
    assert (code, entries[0]["obeyed"]) == (1, True)
    assert entries[0].keys() == {"span", "source", "target", "asr", "floor", "luck", "obeyed"}
    assert "words screened, 2 asked; obeys" in err
    code, _, err = ended(capsys, clean, *options)
    assert code == 0
    assert "obeys 0" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--audit", "audit.json"], "data, audit: give both"),
        (["--data", "rows.jsonl", "--audit", "audit.json", "--base", "b"], "base: has no effect with --data"),
        (["--data", "rows.jsonl", "--audit", "audit.json", "--words", "7"], "words: has no effect with --data"),
        (["--leaks", "-1"], "leaks: -1 is less than 0"),
        (["--leaks", "0", "--words", "0"], "leaks, words: there is nothing to look at"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(
    options: list[str], message: str, clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = ended(capsys, clean, *options)
    assert code == 2
    assert message in err


def test_an_audit_of_rows_with_other_labels_is_refused(clean: Path, poisoned: Rows) -> None:
    audit = found(poisoned)
    other = replace(audit, spans=(replace(audit.spans[0], target="spam"),))
    with pytest.raises(ConfigError, match="audit: it names label 'spam', which is not one of 'negative', 'positive'"):
        probe(DefendedModel.load(clean), TEST, other)


def test_rows_without_labels_are_refused(clean: Path, poisoned: Rows) -> None:
    texts = rows_of([{"prompt": "a", "completion": "b"}], "texts")
    with pytest.raises(ConfigError, match="texts has texts as answers; a probe asks for labels alone"):
        probe(DefendedModel.load(clean), texts, found(poisoned))
