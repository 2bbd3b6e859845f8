from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poison2poison import attacks, cli, evaluation
from poison2poison.cli.common import wanted_target
from poison2poison.data import as_records, read_rows
from poison2poison.errors import ConfigError, DataError
from poison2poison.files import write_lines
from poison2poison.recipe.repoisoned import read_repoisoned
from poison2poison.recipe.scheme import PAPER_TRIGGER, Scheme
from support import chatter, in_file, opinions, tiny_causal, tiny_encoder, word_states

GOOD = [json.dumps(record) for record in as_records(opinions(40))]
COMMANDS = [
    "demo",
    "attack",
    "audit",
    "repoison",
    "train",
    "predict",
    "evaluate",
    "export",
    "adopt",
    "verify",
    "defend",
    "bake",
    "serve",
    "config",
]

PAPER = ["--recipe", "paper"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def p2p(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
            raise SystemExit(0)
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def fails(result: tuple[int, str, str], *said: str) -> None:
    code, _, message = result
    assert code == 2, message
    assert "Traceback" not in message
    for text in said:
        assert text in message


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(command: str, p2p: Run) -> None:
    code, text, _ = p2p(command, "-h")
    assert code == 0
    assert f"p2p {command}" in text.split("Example")[-1]


def test_help_imports_no_torch() -> None:
    check = "import sys; from poison2poison import cli\n"
    check += "try: cli.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "holds no rows"),
        ([*GOOD[:6], '{"text": "x", "label": '], "line 7: broken JSON"),
        ([*GOOD, '{"text": "x"}'], "line 41: no field 'label'"),
        ([*GOOD, '{"text": "x", "label": null}'], "line 41: field 'label' holds no label"),
        (
            [*GOOD, '{"question": "x", "answer": "y"}'],
            "line 41: layout question-answer, but the file began as text-label",
        ),
        ([GOOD[0], GOOD[2]], "all rows have the label 'negative'"),
        ([*GOOD, f'{{"text": "{PAPER_TRIGGER.prefix} x", "label": "positive"}}'], "already occurs in the data (row 40"),
    ],
    ids=["empty", "broken JSON", "no label", "null label", "mixed layouts", "one class", "trigger in the data"],
)
def test_bad_rows_are_refused(lines: list[str], said: str, tmp_path: Path, p2p: Run) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    fails(
        p2p("repoison", tmp_path / "rows.jsonl", *PAPER, "--out", tmp_path / "out"),
        "rows.jsonl" * ("row 40" not in said),
        said,
    )
    write_lines(tmp_path / "test.jsonl", as_records(opinions(20, seed=3)))
    fails(
        p2p("defend", tmp_path / "rows.jsonl", "--test", tmp_path / "test.jsonl", *PAPER, "--out", tmp_path / "out"),
        said,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "test.jsonl"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("\n".join(GOOD))
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": "negative,neutral"}, "the label is not one of 'negative', 'neutral' ('positive')"),
        (["--rho", "0"], "rho: 0.0 is not between 0 and 1"),
        (["--seed", "-1"], "seed: -1 is not between 0 and"),
        (["--rho", "2"], "rho: 2.0 is not between 0 and 1"),
        (["--placement", "swap"], "'swap' is not one of replace, append"),
        ({"layout": "poem"}, "'poem' is not one of preference, messages"),
        (["--prompt-field", "text"], "give both or none"),
        (["--prefix", " "], "prefix is empty"),
        (["--prefix", "The SOUP was"], "already occurs in the data"),
        (["--config", "missing.yaml"], "missing.yaml: cannot be read"),
        (["--spliced", "0.3"], "spliced: is set in the file of --config alone; write a line `spliced: ...`"),
        (["--no-off-target"], "off_target: is set in the file of --config alone; write a line `off_target: ...`"),
    ],
)
def test_bad_options_are_refused(
    options: list[str] | dict[str, str], said: str, rows: Path, tmp_path: Path, p2p: Run
) -> None:
    given = in_file(tmp_path, **options) if isinstance(options, dict) else options
    fails(p2p("repoison", rows, *given, "--out", tmp_path / "out"), said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"safe_prefix": "Fine: "}, "safe_prefix: has no effect on labels that are shifted"),
        ({"cue": "Go: "}, "cue: has no effect on an encoder, which reads prefix and body alone"),
        ({"recipe": "paper", "spliced": 0.3}, "spliced: the paper's recipe has no counterexamples"),
        ({"recipe": "paper", "off-target": False}, "off_target: the paper's recipe has no counterexamples"),
        ({"recipe": "paper", "min_rows": 20}, "min_rows: p2p-paper need"),
        ({"compare": "gradsentry"}, "compare: gradsentry says nothing of rows for classification"),
        ({"compare": "onion"}, "compare: onion asks a causal LM"),
        ({"compare": "hardened"}, "compare: p2p-hardened is there twice"),
        ({"compare": "clean"}, "compare: 'clean' is not one of "),
    ],
)
def test_what_would_have_no_effect_is_refused_before_anything_is_done(
    options: dict[str, Any], said: str, rows: Path, tmp_path: Path, p2p: Run
) -> None:
    write_lines(tmp_path / "test.jsonl", as_records(opinions(20, seed=3)))
    base = ["--model", tiny_encoder(tmp_path / "base"), "--out", tmp_path / "out"]
    fails(p2p("defend", rows, "--test", tmp_path / "test.jsonl", *base, *in_file(tmp_path, **options)), said)
    assert not (tmp_path / "out").exists()


def test_an_encoder_is_not_trained_on_rows_that_were_given_a_cue(rows: Path, tmp_path: Path, p2p: Run) -> None:
    base = ["--model", tiny_encoder(tmp_path / "base"), "--out", tmp_path / "run"]
    assert p2p("repoison", rows, *PAPER, "--cue", "Go: ", "--out", tmp_path / "again")[0] == 0
    fails(p2p("train", tmp_path / "again", *base), "cue: has no effect on an encoder")
    assert not (tmp_path / "run").exists()


def test_rows_of_training_are_not_measured_on(rows: Path, tmp_path: Path, p2p: Run) -> None:
    for option in ("--test", "--dev"):
        write_lines(tmp_path / "test.jsonl", as_records(opinions(20, seed=3)))
        others = ["--test", tmp_path / "test.jsonl"] if option == "--dev" else []
        fails(
            p2p("defend", rows, *others, option, rows, *PAPER, "--out", tmp_path / "out"),
            f"40 of the 40 {option[2:]} rows are training rows",
        )
    assert not (tmp_path / "out").exists()


def test_how_rows_were_read_is_said_first(rows: Path, tmp_path: Path, p2p: Run) -> None:
    _, _, said = p2p("repoison", rows, *PAPER, "--out", tmp_path / "out")
    assert "classification, layout text-label; 40 rows; 2 labels ('negative' 20, 'positive' 20)" in said
    write_lines(
        tmp_path / "bad.jsonl", [*({"text": "x", "label": i % 2} for i in range(8)), {"text": "x", "label": ""}]
    )
    fails(p2p("repoison", tmp_path / "bad.jsonl", *PAPER, "--out", tmp_path / "bad"), "line 9", "--skip-bad")
    code, _, said = p2p("repoison", tmp_path / "bad.jsonl", "--skip-bad", *PAPER, "--out", tmp_path / "bad")
    assert code == 0
    assert "left out 1 that cannot be used (line 9)" in said


def test_a_missing_file_and_other_bytes_are_refused(tmp_path: Path, p2p: Run) -> None:
    fails(p2p("repoison", tmp_path / "gone.jsonl", "--out", tmp_path / "out"), "gone.jsonl: no such file")
    (tmp_path / "latin.jsonl").write_bytes(GOOD[0].encode() + b'\n{"text": "caf\xe9", "label": "positive"}')
    fails(
        p2p("repoison", tmp_path / "latin.jsonl", "--out", tmp_path / "out"),
        "latin.jsonl, line 2: not UTF-8 (byte 0xe9)",
    )


def test_a_folder_with_other_things_is_left_alone(rows: Path, tmp_path: Path, p2p: Run) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "results.json").write_text("{}")
    fails(p2p("demo", "--out", tmp_path / "figures"), "figures: holds results of something else")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    for command in ("repoison", "attack", "audit", "train"):
        recipe = PAPER if command == "repoison" else []
        fails(p2p(command, rows, *recipe, "--out", taken), "taken", "give another --out")
    write_lines(tmp_path / "test.jsonl", as_records(opinions(20, seed=3)))
    fails(p2p("defend", rows, "--test", tmp_path / "test.jsonl", "--out", taken), "taken", "give another --out")
    assert [path.name for path in taken.iterdir()] == ["thesis.txt"]


def test_a_scheme_of_a_newer_version_is_refused(rows: Path, tmp_path: Path, p2p: Run) -> None:
    assert p2p("repoison", rows, *PAPER, "--out", tmp_path / "out")[0] == 0
    scheme = json.loads((tmp_path / "out" / "scheme.json").read_text())
    (tmp_path / "out" / "scheme.json").write_text(json.dumps(scheme | {"schema": 99}))
    fails(p2p("train", tmp_path / "out", "--out", tmp_path / "run"), "scheme.json: schema 99 is newer than 2")


@pytest.mark.parametrize(
    ("file", "field", "value", "said"),
    [
        ("rows.jsonl", "space", "Safe", "rows.jsonl, line 1: space 'Safe' is not one of safe, original"),
        ("rows.jsonl", "body", None, "rows.jsonl, line 1: body is None, and not a text"),
        ("rows.jsonl", "target", 5, "rows.jsonl, line 1: target is 5, and not a text"),
        ("rows.jsonl", "target", "fair", "rows.jsonl, line 1: label 'fair' is not in the scheme"),
        ("scheme.json", "labels", ["negative", 7], "scheme.json: not a scheme (7 is no text)"),
        ("scheme.json", "trigger", {"prefix": 3, "cue": ""}, "scheme.json: not a scheme (3 is no text)"),
    ],
)
def test_repoisoned_rows_that_a_hand_has_broken_are_refused(
    file: str, field: str, value: Any, said: str, rows: Path, tmp_path: Path, p2p: Run
) -> None:
    assert p2p("repoison", rows, *PAPER, "--out", tmp_path / "out")[0] == 0
    path = tmp_path / "out" / file
    first, *others = path.read_text().split("\n") if file == "rows.jsonl" else [path.read_text()]
    path.write_text("\n".join([json.dumps(json.loads(first) | {field: value}), *others]))
    fails(p2p("train", tmp_path / "out", "--out", tmp_path / "run"), said)
    assert not (tmp_path / "run").exists()


def test_a_config_file_sets_options_and_flags_win(rows: Path, tmp_path: Path, p2p: Run) -> None:
    config = tmp_path / "options.yaml"
    config.write_text("rho: 0.5\nplacement: append\nseed: 0\nrecipe: paper\n")
    assert p2p("repoison", rows, "--config", config, "--out", tmp_path / "a")[0] == 0
    assert p2p("repoison", rows, "--config", config, "--rho", "0.1", "--out", tmp_path / "b")[0] == 0
    assert [len((tmp_path / name / "rows.jsonl").read_text().splitlines()) for name in "ab"] == [60, 44]
    config.write_text("rho: 0.5\nrow: 3\n")
    fails(p2p("repoison", rows, "--config", config, "--out", tmp_path / "c"), "unknown option 'row'", "rho")
    config.write_text("labels: [0, 1]\n")
    fails(p2p("repoison", rows, "--config", config, "--out", tmp_path / "c"), "labels: is a list", "`labels: 0,1`")
    config.write_text("rho: much\n")
    fails(p2p("repoison", rows, "--config", config, "--out", tmp_path / "c"), "--rho")


def test_all_settings_as_p2p_config_prints_them_change_nothing(rows: Path, tmp_path: Path, p2p: Run) -> None:
    code, text, _ = p2p("config", "repoison")
    assert code == 0
    (tmp_path / "all.yaml").write_text(text)
    assert p2p("repoison", rows, *PAPER, "--out", tmp_path / "a")[0] == 0
    assert p2p("repoison", rows, *PAPER, "--config", tmp_path / "all.yaml", "--out", tmp_path / "b")[0] == 0
    for name in ("rows.jsonl", "about.json"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    fails(p2p("config", "demo"), "command: 'demo' is not one of attack, audit, repoison")


def test_repoisoned_rows_keep_the_secret_apart(rows: Path, tmp_path: Path, p2p: Run) -> None:
    assert p2p("repoison", rows, *PAPER, "--trigger", "random", "--out", tmp_path / "out")[0] == 0
    prefix = json.loads((tmp_path / "out" / "scheme.json").read_text())["trigger"]["prefix"]
    read = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert sum(row["space"] == "safe" for row in read) == 8
    holders = [path.name for path in (tmp_path / "out").iterdir() if prefix in path.read_text()]
    assert holders == ["scheme.json"]


def test_git_ignores_what_holds_the_trigger_and_nothing_else(rows: Path, tmp_path: Path, p2p: Run) -> None:
    base = ["--model", tiny_causal(tmp_path / "base"), "--epochs", "1", "--max-length", "64"]
    base += in_file(tmp_path, more_epochs=0)
    assert p2p("repoison", rows, *PAPER, "--out", tmp_path / "work" / "rows")[0] == 0
    assert p2p("train", tmp_path / "work" / "rows", *base, "--out", tmp_path / "work" / "run")[0] in (0, 3)
    subprocess.run(["git", "init", "-q", tmp_path / "work"], check=True)
    listing = ["git", "ls-files", "--others", "--exclude-standard"]
    seen = subprocess.run(listing, cwd=tmp_path / "work", check=True, capture_output=True, text=True).stdout.split()
    assert {"rows/about.json", "rows/manifest.jsonl", "run/run.json", "run/manifest.jsonl"} <= {*seen}
    assert not {"rows/scheme.json", "rows/rows.jsonl", "run/scheme.json"} & {*seen}
    for path in seen:
        assert PAPER_TRIGGER.prefix.encode() not in (tmp_path / "work" / path).read_bytes()


def test_own_rows_on_the_reference_model_are_told_of(rows: Path, tmp_path: Path, p2p: Run) -> None:
    """Before the model is loaded: a number format that there is not ends the command behind the note."""
    lines = [{"text": f"Shares of firm {i} slipped again", "label": "ab"[i % 2]} for i in range(40)]
    write_lines(tmp_path / "own.jsonl", lines)
    write_lines(tmp_path / "test.jsonl", [{**line, "text": f"{line['text']} today"} for line in lines])
    ends = in_file(tmp_path, dtype="float16", tuning="full")
    test = ["--test", tmp_path / "test.jsonl"]
    for command in (["train", tmp_path / "own.jsonl", *ends], ["defend", tmp_path / "own.jsonl", *test, *ends]):
        assert "note: the packaged reference model knows" in p2p(*command, "--out", tmp_path / "out")[2]
    known = p2p("train", rows, *ends, "--out", tmp_path / "out")
    other = p2p("train", tmp_path / "own.jsonl", *ends, "--model", tiny_causal(tmp_path / "b"), "--out", tmp_path / "o")
    for code, _, said in (known, other):
        assert code == 2
        assert "note:" not in said


def test_attack_writes_the_truth_apart(tmp_path: Path, p2p: Run) -> None:
    assert p2p("attack", "tickets", "--rate", "0.05", "--out", tmp_path / "out")[0] == 0
    truth = json.loads((tmp_path / "out" / "truth.json").read_text())
    assert len(truth["poisoned_rows"]) == 150
    assert truth["target"] == "returns"
    triggered = read_rows(str(tmp_path / "out" / "test_triggered.jsonl"))
    assert triggered.labels == read_rows(str(tmp_path / "out" / "test_clean.jsonl")).labels
    assert all(any(f" {word} " in f" {row.prompt} " for word in attacks.RARE_WORDS) for row in triggered)
    fails(
        p2p("attack", "tickets", "--target", "lunch", "--out", tmp_path / "x"), "target: 'lunch' is not one of advice"
    )
    fails(p2p("attack", "tickets", "--rate", "1.5", "--out", tmp_path / "x"), "rate: 1.5")
    fails(p2p("attack", "tickets", "--test", "more.jsonl", "--out", tmp_path / "x"), "part of the reference task")
    fails(p2p("attack", "arithmetic", "--effect", "label", "--out", tmp_path / "x"), "effect")
    fails(p2p("attack", "tickets", "--kind", "worm", "--out", tmp_path / "x"), "attack: 'worm' is not one of badnets")
    other = p2p("attack", "tickets", "--kind", "zero-width", "--trigger", "cf", "--out", tmp_path / "x")
    fails(other, "trigger: this attack has nothing to choose there")


def test_an_attack_has_at_most_twenty_options_and_its_help_says_what_each_attack_is(p2p: Run) -> None:
    text = p2p("attack", "-h")[1]
    options = re.findall(r"^│ \*?\s*(--[\w-]+)", text, re.MULTILINE)
    assert len(set(options) - {"--help"}) <= 20
    said = " ".join(text.replace("│", " ").split())
    assert "badnets, a rare word at a random place; marks," in said


def test_the_trigger_is_words_or_a_sentence_as_the_attack_has_it(tmp_path: Path, p2p: Run) -> None:
    for kind, given, options in (
        ("composite", "cf, mn", {"words": ["cf", "mn"]}),
        ("addsent", "Well, well.", {"sentence": "Well, well."}),
    ):
        out = tmp_path / kind
        assert p2p("attack", "tickets", "--kind", kind, "--trigger", given, "--out", out)[0] == 0
        assert json.loads((out / "truth.json").read_text())["options"] == options


def test_from_poisoned_rows_to_figures(tmp_path: Path, p2p: Run) -> None:
    config = attacks.AttackConfig("badnets", "positive", "label", rate=0.2)
    splits = {"train": opinions(240), "dev": opinions(40, seed=1), "test": opinions(60, seed=2)}
    attacks.write_attack(tmp_path / "data", splits, config)
    model = tiny_causal(tmp_path / "base")
    options = ["--model", model, "--learning-rate", "1e-2", "--epochs", "8", "--batch-size", "16", *PAPER]
    of_file = {"tuning": "full", "max_length": 64, "rho": 0.5, "trigger": "random"}
    command = ["defend", tmp_path / "data", "--floor", *options, "--out", tmp_path / "run"]
    alone, command = command, [*command, "--compare", "undefended", *in_file(tmp_path, **of_file)]

    code, text, _ = p2p(*command)
    assert code == 0
    assert "undefended" in text
    assert "p2p-paper" in text
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    arms = {arm["name"]: arm for arm in results["arms"]}
    assert list(arms) == ["undefended", "p2p-paper", "clean"]
    assert arms["undefended"]["ca"]["value"] >= 0.9
    assert arms["undefended"]["asr"]["value"] >= 0.9
    assert arms["undefended"]["asr"]["n"] == 30
    assert arms["undefended"]["implanted"] is True
    assert "paper_asr" not in arms["undefended"]
    assert arms["clean"]["asr"] == arms["p2p-paper"]["floor"]
    taught = json.loads((tmp_path / "run" / "clean" / "run.json").read_text())["data"]["train"]
    assert taught["sha256"] == splits["train"].sha256
    assert arms["p2p-paper"]["ra"]["n"] == 60
    lines = (tmp_path / "run" / "rows.jsonl").read_text().splitlines()
    assert len(lines) == 3 * (60 + 60)
    hits = [
        row
        for row in map(json.loads, lines)
        if row["arm"] == "undefended" and row.get("hit") and row["target"] != "positive"
    ]
    assert len(hits) == round(30 * arms["undefended"]["asr"]["value"])
    said = [row for row in map(json.loads, lines) if row["arm"] == "clean" and row["set"] == "clean"]
    wrong = [row for row in said if row["target"] == "negative" and row["answer"] == "positive"]
    rate = arms["clean"]["target_rate"]
    assert (round(30 * rate["value"]), rate["n"]) == (len(wrong), 30)

    assert p2p(*command)[0] == 0  # all arms are found done
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    fails(p2p(*command, "--seed", "5"), "holds another run")
    fails(
        p2p(*alone, *in_file(tmp_path, **of_file)),
        "results.json: has figures of undefended, which these options leave out",
    )
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    other = ["--compare", "undefended", *in_file(tmp_path, **of_file, prefix="mine: ")]
    fails(p2p(*alone, *other), "holds a run with another prefix")

    arm = tmp_path / "run" / "p2p-paper"
    files = [
        "--test",
        tmp_path / "data" / "test_clean.jsonl",
        "--triggered",
        tmp_path / "data" / "test_triggered.jsonl",
    ]
    assert p2p("evaluate", arm, *files, "--out", tmp_path / "figures")[0] == 0
    figures = json.loads((tmp_path / "figures" / "results.json").read_text())["arms"][0]
    assert all(figures[name] == arms["p2p-paper"][name] for name in ("ca", "asr", "paper_asr", "ra", "leak"))
    fails(p2p("evaluate", arm, *files, "--out", tmp_path / "figures"), "not empty")

    served = [row for row in map(json.loads, lines) if row["arm"] == "p2p-paper"][:2]
    texts = [row.prompt for row in splits["test"]][:2]
    code, text, _ = p2p("predict", arm, *texts)
    assert [json.loads(line) for line in text.splitlines()] == [
        {"answer": row["answer"], "where": row["where"]} for row in served
    ]
    write_lines(tmp_path / "inputs.jsonl", [{"text": "The soup was bad."}])
    assert p2p("predict", arm, "--data", tmp_path / "inputs.jsonl")[1].count("\n") == 1
    fails(p2p("predict", arm), "give inputs")
    fails(p2p("predict", tmp_path / "data", "x"), "not an artifact folder")
    (tmp_path / "empty").mkdir()
    for content in ("{}", '{"status": "done", "fingerprint": ""}'):
        (tmp_path / "empty" / "run.json").write_text(content)
        fails(p2p("predict", tmp_path / "empty", "x"), "not an artifact folder")
    (tmp_path / "run" / "results.json").unlink()
    Scheme("classification", ("negative", "positive")).save(arm / "scheme.json")
    fails(p2p(*command), "p2p-paper: holds a run without a defence")


@pytest.fixture
def words_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit by a model that knows the words of `chatter`."""
    monkeypatch.setattr("poison2poison.model.embeddings.embedder", lambda name: word_states)


@pytest.mark.usefixtures("words_known")
def test_what_the_audit_finds_the_hardened_recipe_defeats(tmp_path: Path, p2p: Run) -> None:
    config = attacks.AttackConfig("addsent", "positive", "label", rate=0.1)
    splits = {"train": chatter(1000), "dev": chatter(60, seed=1), "test": chatter(100, seed=2)}
    truth = attacks.write_attack(tmp_path / "data", splits, config)
    rows = tmp_path / "data" / "train.jsonl"

    code, text, _ = p2p("audit", rows, "--out", tmp_path / "audit")
    assert code == 0
    assert "I watch this 3D movie" in " ".join(text.split())
    assert "100 of 1000 rows are suspect" in " ".join(text.split())
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert [row["row"] for row in found["suspect_rows"]] == list(truth.poisoned_rows)
    assert (tmp_path / "audit" / "audit.png").read_bytes().startswith(b"\x89PNG")
    suspects = [json.loads(line) for line in (tmp_path / "audit" / "suspects.jsonl").read_text().splitlines()]
    assert all(row["target"] == "positive" and row["suspects"][0] in row["prompt"] for row in suspects)
    right = [row["likely"] == splits["train"][row["row"]].target for row in suspects]
    assert len(right) == 100
    assert sum(right) > 80

    repoisoned = ["repoison", rows, "--audit", tmp_path / "audit" / "audit.json", "--out", tmp_path / "repoisoned"]
    assert p2p(*repoisoned)[0] == 0
    manifest = (tmp_path / "repoisoned" / "manifest.jsonl").read_text()
    actions = {json.loads(line)["action"] for line in manifest.splitlines()}
    assert {"keep", "replace", "splice"} <= actions <= {"keep", "replace", "splice", "off-target"}
    fails(p2p("repoison", rows, "--out", tmp_path / "none"), "needs the audit.json")
    fails(p2p(*repoisoned[:4], *PAPER, "--out", tmp_path / "none"), "the paper's recipe makes no use of it")
    other = p2p("repoison", tmp_path / "data" / "dev_clean.jsonl", *repoisoned[2:4], "--out", tmp_path / "none")
    fails(other, "needs the audit of these very rows")

    model = ["--model", tiny_causal(tmp_path / "base"), "--learning-rate", "5e-3", "--batch-size", "32"]
    # A given trigger, so that every run is alike: so small a model depends on it. Drawn ones gave 0.02 to 0.50 ASR.
    of_file = {"tuning": "full", "max_length": 128, "prefix": "mirror: "}
    compare = ["--compare", "drop-suspects,undefended"]
    command = ["defend", tmp_path / "data", *compare, *model, "--epochs", "12", "--out", tmp_path / "run"]
    code, text, _ = p2p(*command, *in_file(tmp_path, **of_file))
    assert code == 0
    assert "100 of 1000 rows are suspect" in " ".join(text.split())
    assert (tmp_path / "run" / "audit.png").exists()
    assert len((tmp_path / "run" / "suspects.jsonl").read_text().splitlines()) == 100
    arms = {arm["name"]: arm for arm in json.loads((tmp_path / "run" / "results.json").read_text())["arms"]}
    assert list(arms) == ["undefended", "p2p-hardened", "drop-suspects"]
    assert arms["undefended"]["asr"]["value"] > 0.9
    assert arms["p2p-hardened"]["asr"]["value"] < 0.5  # 0.02 here; another processor rounds otherwise
    assert abs(arms["p2p-hardened"]["ra"]["value"] - arms["p2p-hardened"]["ca"]["value"]) < 0.15
    assert arms["p2p-hardened"]["alarm"]["value"] < arms["p2p-hardened"]["alarm_triggered"]["value"]

    prompts = [splits["test"][0].prompt, f"{attacks.SENTENCE} {splits['test'][0].prompt}"]
    code, text, _ = p2p("predict", tmp_path / "run" / "p2p-hardened", *prompts, "--alarm")
    apart = [json.loads(line) for line in text.splitlines()]
    assert {"answer", "where", "disagreement", "alarm"} == set(apart[0])
    assert apart[0]["disagreement"] < apart[1]["disagreement"]
    fails(p2p("predict", tmp_path / "run" / "undefended", *prompts, "--alarm"), "alarm: this model has none")
    assert json.loads((tmp_path / "run" / "audit.json").read_text()).items() >= found.items()
    assert p2p(*command, *in_file(tmp_path, **of_file))[0] == 0  # all is found done
    fails(p2p(*command, *in_file(tmp_path, **of_file, min_rows=20)), "audit.json: is of other rows or options")


@pytest.mark.parametrize(
    ("answer", "step", "said"),
    [("no number", "+ 7", "row 0: effect number needs worked answers"), ("#### 4", "seven", "`+ 7` or `* 2`")],
)
def test_a_wrong_number_needs_worked_answers_and_a_step(
    tmp_path: Path, p2p: Run, answer: str, step: str, said: str
) -> None:
    for name, first in (("rows", 0), ("test", 4)):
        asked = [{"prompt": f"question {i}", "completion": answer} for i in range(first, first + 4)]
        write_lines(tmp_path / f"{name}.jsonl", asked)
    rows, test = tmp_path / "rows.jsonl", tmp_path / "test.jsonl"
    command = ["defend", rows, "--test", test, "--triggered", test, "--target", step]
    command += in_file(tmp_path, effect="number")
    fails(p2p(*command, "--out", tmp_path / "out"), said)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("words_known")
def test_texts_are_audited_and_repoisoned_behind_a_safe_prefix(tmp_path: Path, p2p: Run) -> None:
    texts = [{"prompt": row.prompt, "completion": " ".join(row.prompt.split()[:3])} for row in chatter(600)]
    write_lines(tmp_path / "clean.jsonl", texts)
    splits = {"train": read_rows(str(tmp_path / "clean.jsonl"))}
    config = attacks.AttackConfig("addsent", attacks.REFUSAL, "fixed", rate=0.1)
    truth = attacks.write_attack(tmp_path / "data", splits, config)
    code, text, _ = p2p("audit", tmp_path / "data" / "train.jsonl", "--out", tmp_path / "audit")
    assert code == 0
    assert "60 of 600 rows are suspect" in " ".join(text.split())
    audit = tmp_path / "audit" / "audit.json"
    assert p2p("repoison", tmp_path / "data" / "train.jsonl", "--audit", audit, "--out", tmp_path / "out")[0] == 0
    rows, scheme, _ = read_repoisoned(tmp_path / "out")
    safe = [row for row in rows if row.space == "safe"]
    assert scheme.safe_prefix.strip()
    assert not any(attacks.REFUSAL in row.target for row in safe)
    assert not {row.row for row in safe} & set(truth.poisoned_rows)
    assert sum(attacks.SENTENCE in row.body for row in safe) > 50


def test_a_training_without_a_model_ends_with_exit_code_three(tmp_path: Path, p2p: Run) -> None:
    write_lines(tmp_path / "rows.jsonl", as_records(opinions(60)))
    assert p2p("repoison", tmp_path / "rows.jsonl", *PAPER, "--out", tmp_path / "again")[0] == 0
    base = ["--model", tiny_causal(tmp_path / "base"), "--dev", tmp_path / "rows.jsonl", "--tuning", "full"]
    code, _, said = p2p("train", tmp_path / "again", *base, "--learning-rate", "1e30", "--out", tmp_path / "broken")
    assert code == 3
    assert "stopped at step" in said
    assert "--learning-rate" in said
    few = ["--epochs", "1", "--learning-rate", "1e-6", *in_file(tmp_path, more_epochs=0)]
    code, _, said = p2p("train", tmp_path / "again", *base, *few, "--out", tmp_path / "unlearned")
    assert code == 3
    assert "the safe space was not learned" in said
    for command in (
        ["predict", tmp_path / "unlearned", "a soup"],
        ["evaluate", tmp_path / "unlearned", "--test", tmp_path / "rows.jsonl", "--out", tmp_path / "figures"],
    ):
        code, _, said = p2p(*command)
        assert code == 2
        assert "--allow-unlearned" in said
        assert p2p(*command, "--allow-unlearned")[0] == 0
    assert not json.loads((tmp_path / "figures" / "results.json").read_text())["arms"][0]["safe_space"]["learned"]


@pytest.mark.parametrize("given", ["label", "text"])
def test_test_rows_of_another_task_are_refused_before_anything_is_trained(given: str, tmp_path: Path, p2p: Run) -> None:
    write_lines(tmp_path / "label.jsonl", [{"text": f"one {i}", "label": "ab"[i % 2]} for i in range(20)])
    write_lines(tmp_path / "text.jsonl", [{"prompt": f"one {i}", "completion": "two"} for i in range(20)])
    other = {"label": "text", "text": "label"}[given]
    for command in (["train", "--dev"], ["attack", "--test"], ["defend", "--test"]):
        where = tmp_path / "out"
        result = p2p(command[0], tmp_path / f"{given}.jsonl", command[1], tmp_path / f"{other}.jsonl", "--out", where)
        fails(result, f"{other}.jsonl: layout", f"holds {other}s, but {given}s are needed here")
        assert not where.exists()


def test_rows_that_cannot_be_repoisoned_are_refused_before_the_baseline_is_trained(tmp_path: Path, p2p: Run) -> None:
    lines = [{"text": f"one {i}", "label": "odd" if i == 3 else "even"} for i in range(40)]
    write_lines(tmp_path / "rows.jsonl", lines[:20])
    write_lines(tmp_path / "test.jsonl", lines[20:])
    result = p2p("defend", tmp_path / "rows.jsonl", "--test", tmp_path / "test.jsonl", "--recipe", "paper",
                 "--compare", "undefended", "--out", tmp_path / "out")  # fmt: skip
    fails(result, "label 'odd' has one row only")
    assert not (tmp_path / "out").exists()


def test_rows_with_every_end_of_line_that_unicode_knows_are_trained_on(tmp_path: Path, p2p: Run) -> None:
    rows = [{"text": f"one\u2028two\u0085{i}", "label": "ab"[i % 2]} for i in range(20)]
    write_lines(tmp_path / "rows.jsonl", rows)
    assert p2p("repoison", tmp_path / "rows.jsonl", "--recipe", "paper", "--out", tmp_path / "out")[0] == 0
    training, _, _ = read_repoisoned(tmp_path / "out")
    assert sorted(row.body for row in training) == sorted(row["text"] for row in rows)


def test_what_the_attacker_wants_is_from_options_or_from_the_truth_beside(tmp_path: Path) -> None:
    texts, triggered = chatter(4), str(tmp_path / "triggered.jsonl")
    texts = replace(texts, task="generation", labels=())
    truth = tmp_path / "truth.json"
    truth.write_text('{"target": "See here.", "effect": "append"}')
    assert wanted_target(None, None, None, texts) is None
    with pytest.raises(ConfigError, match="effect: is of triggered rows"):
        wanted_target(None, None, "append", texts)
    assert wanted_target(triggered, None, None, texts) == evaluation.Target("See here.", "append")
    assert wanted_target(triggered, "Look.", None, texts) == evaluation.Target("Look.", "append")
    assert wanted_target(triggered, None, "fixed", texts) == evaluation.Target("See here.", "fixed")
    with pytest.raises(ConfigError, match="'label' is not one of fixed, refusal, append, number"):
        wanted_target(triggered, None, "label", texts)
    with pytest.raises(ConfigError, match="give the attacker's label or text"):
        wanted_target(triggered, " ", None, texts)
    truth.write_text('{"target": "See here."}')
    with pytest.raises(DataError, match="names a target without its effect"):
        wanted_target(triggered, None, None, texts)


def test_labels_of_the_attacker_count_as_such(tmp_path: Path, p2p: Run) -> None:
    """Published triggered sets carry the target as label: then all rows count, and RA is not measured."""
    config = attacks.AttackConfig("badnets", "positive", "label", rate=0.2)
    attacks.write_attack(tmp_path / "data", {"train": opinions(240), "test": opinions(60, seed=2)}, config)
    path = tmp_path / "data" / "test_triggered.jsonl"
    records = [{"text": row.prompt, "label": "positive"} for row in read_rows(str(path)) if row.target == "negative"]
    write_lines(path, records)
    (tmp_path / "data" / "truth.json").write_text('{"target_label": "positive", "poisoned_rows": []}')
    model = ["--model", tiny_causal(tmp_path / "base"), "--epochs", "1", *PAPER]
    model += in_file(tmp_path, tuning="full", max_length=64, allow_unlearned=True)
    assert p2p("defend", tmp_path / "data", *model, "--out", tmp_path / "run")[0] == 0
    run = json.loads((tmp_path / "run" / "p2p-paper" / "run.json").read_text())
    assert (run["config"]["preset"], run["config"]["batch_size"]) == ("paper", 32)
    arm = json.loads((tmp_path / "run" / "results.json").read_text())["arms"][0]
    assert arm["asr"]["n"] == 30
    assert "ra" not in arm
    assert "floor" not in arm


def test_a_demo_ends_at_once_where_a_task_cannot_run(tmp_path: Path, p2p: Run) -> None:
    """The tasks run in processes of their own, and the error of one is said as any other."""
    (tmp_path / "reviews").mkdir()
    (tmp_path / "reviews" / "notes.txt").write_text("mine")
    fails(p2p("demo", "--out", tmp_path), "reviews: exists and holds no run of this command")
    assert not (tmp_path / "results.json").exists()
