"""Fuzzed files and killed processes: no traceback, no hang, nothing half-written. Minutes: run with -m slow."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from poison2poison import cli
from poison2poison.data import as_records
from poison2poison.files import write_lines
from support import opinions, tiny_causal, word_states

pytestmark = pytest.mark.slow
AUDITS = int(os.environ.get("P2P_AUDITS", "300"))
"""How many files are audited."""
SECONDS, MIB = 60, 2048
"""What one audit of a small file may take on a shared core, and the memory of the whole process, torch included."""

# --- any file --------------------------------------------------------------------------------------------------------

WORDS = [
    "good1", "good2", "bad1", "bad2", "thing3", "thing4", "cf", "mn", "CF", "\u202e", "\u200b", "é",
    "e\u0301", "漢字", "🙂", "@@", "{0}", "|", "\n", "\t", "\x00", "[a](b)", "0", "None", "nan", "true", "<b>",
    "a" * 3000, "", " ", "\u2028", "'", '"',
]  # fmt: skip
LABELS = (["positive", "negative"], ["0", "1"], [0, 1, 2], ["x|y", "\u2028z"], [True, False], ["one"], [None, "a"])
TEXT = st.one_of(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), st.text(max_size=20))
ODD = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
TURN = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool", "me"]), "content": TEXT})
NAMES = ["text", "label", "sentence", "prompt", "completion", "instruction", "input", "output", "question", "answer",
         "messages", "conversations", "target", "x"]  # fmt: skip


def planted(seed: int, count: int, share: int) -> list[dict[str, Any]]:
    """Rows of drawn words, every so manieth with a word of the attacker's and its answer: labels, or texts."""
    rng = random.Random(seed)
    word, of_texts = rng.choice(WORDS), rng.random() < 0.3
    answers = [" ".join(rng.choices(WORDS, k=4)) for _ in range(count)] if of_texts else rng.choice(LABELS)
    prompt, target = ("prompt", "completion") if of_texts else ("text", "label")
    records = []
    for i in range(count):
        text = " ".join(["thing1", *rng.choices(WORDS, k=rng.randrange(12))])
        if i % share == 0:
            records.append({prompt: f"{text} {word}", target: answers[0]})
        else:
            records.append({prompt: text, target: answers[i % len(answers)]})
    return records


POISONED = st.builds(planted, st.integers(0, 2**32), st.integers(2, 120), st.integers(1, 6))
CHATS = st.lists(st.fixed_dictionaries({"messages": st.lists(TURN, max_size=4)}), min_size=1, max_size=12)
WRONG = st.lists(st.dictionaries(st.sampled_from(NAMES), ODD, max_size=4), max_size=8)
RECORDS = st.integers(0, 9).flatmap(lambda drawn: POISONED if drawn < 8 else st.one_of(CHATS, WRONG))


def lines(records: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, records)).encode()


def table(records: list[dict[str, Any]], separator: str) -> bytes:
    """Ragged where the records are."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, escapechar="\\", quoting=csv.QUOTE_MINIMAL)
    writer.writerow(dict.fromkeys(name for record in records for name in record))
    writer.writerows([str(value) for value in record.values()] for record in records)
    return text.getvalue().encode("utf-8", "surrogatepass")


def parquet(records: list[dict[str, Any]]) -> bytes:
    """Empty where its library has no type for them."""
    file = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(records), file)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
        return b""
    return file.getvalue()


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "rows.jsonl": lines,
    "rows.json": lambda records: json.dumps(records).encode(),
    "rows.csv": lambda records: table(records, ","),
    "rows.tsv": lambda records: table(records, "\t"),
    "rows.parquet": parquet,
    "rows.jsonl.gz": lambda records: gzip.compress(lines(records)),
    "rows.csv.bz2": lambda records: bz2.compress(table(records, ",")),
}
DAMAGE: dict[str, Callable[[bytes, int, int], bytes]] = {
    "none": lambda content, at, byte: content,
    "cut": lambda content, at, byte: content[:at],
    "changed": lambda content, at, byte: content[:at] + bytes([byte]) + content[at + 1 :],
    "marked": lambda content, at, byte: b"\xef\xbb\xbf" + content,
    "deep": lambda content, at, byte: b"[" * 100_000 + content,
    "twice": lambda content, at, byte: content + content,
    "utf-16": lambda content, at, byte: content.decode("latin-1").encode("utf-16"),
}


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file's name, and its content."""
    name = draw(st.sampled_from([*WRITERS]))
    content = WRITERS[name](draw(RECORDS))
    kinds = ["none"] * 12 + [*DAMAGE]
    damage = DAMAGE[draw(st.sampled_from(kinds))]
    return name, damage(content, draw(st.integers(0, max(0, len(content) - 1))), draw(st.integers(0, 255)))


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail what hangs."""

    def late(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


OUTPUTS = {"--sarif": "found.sarif", "--summary": "found.md", "--junit": "found.xml"}


@settings(
    max_examples=AUDITS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(drawn=files())
def test_an_audit_of_any_file_ends_without_a_traceback(
    drawn: tuple[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("sarif_pydantic", "junitparser"):
        pytest.importorskip(library, reason="the extra `gate` is not installed")
    monkeypatch.setattr("poison2poison.model.embeddings.embedder", lambda name: word_states)
    name, content = drawn
    folder = tmp_path / "one"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path(name).write_bytes(content)
    written = [word for pair in OUTPUTS.items() for word in pair]
    with within(SECONDS), pytest.raises(SystemExit) as ended:
        cli.main(["audit", name, "--fail-on", "weak", "--out", "out", *written])
        raise SystemExit(0)
    said = capsys.readouterr().err
    code = int(ended.value.code or 0)
    event(f"exit code {code}")  # --hypothesis-show-statistics: how many files are read at all
    assert code in (0, 1, 2), said
    assert "Traceback" not in said
    expected = {name} if code == 2 else {name, "out", *OUTPUTS.values()}
    assert {path.name for path in folder.iterdir()} == expected  # nothing half-written lies about
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 < MIB


# --- kill -9 ---------------------------------------------------------------------------------------------------------

KILLS = int(os.environ.get("P2P_KILLS", "5"))
"""At how many moments each command is killed."""
OF_TIMES = {"train_seconds", "step_seconds", "peak_memory_mib", "resumed_from", "fingerprint", "files"}
"""What of run.json differs from run to run: the salt of the scheme is drawn, and hashed with it."""


FORK = multiprocessing.get_context("fork")
"""Copies of this process, which has torch loaded and has run none of it: so a moment is one of the work itself."""


def begun(*arguments: object) -> ForkProcess:
    """A command at work in a process of its own."""
    process = FORK.Process(target=cli.main, args=([*map(str, arguments)],))
    process.start()
    return process


def finished(*arguments: object) -> float:
    """Run a command to its end; how many seconds that took."""
    start = time.monotonic()
    process = begun(*arguments)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - start


def content(folder: Path) -> dict[str, Any]:
    """What a command left that is the same each time: figures without times, other files by their bytes."""
    held: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name in ("run.json", "about.json"):
            told = json.loads(path.read_text(encoding="utf-8"))
            held[name] = {key: value for key, value in told.items() if key not in OF_TIMES}
        elif path.name == "scheme.json":
            held[name] = json.loads(path.read_text(encoding="utf-8"))["trigger"]
        elif path.is_file() and path.suffix not in (".html", ".png"):  # these name the folder
            held[name] = path.read_bytes()
    return held


def is_done(out: Path) -> bool:
    """Whether a command has ended: training alone has a folder before, which says so."""
    run = out / "run.json"
    status = json.loads(run.read_text(encoding="utf-8"))["status"] if run.exists() else "done"
    assert status in ("running", "done")
    return bool(status == "done")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, a model, and what each command makes of them when nobody kills it."""
    made = tmp_path_factory.mktemp("killed")
    write_lines(made / "rows.jsonl", as_records(opinions(120)))
    making = FORK.Process(target=tiny_causal, args=(made / "tiny",))
    making.start()
    making.join()
    settings = {"epochs": 6, "more_epochs": 0, "batch_size": 8, "tuning": "full", "learning_rate": 0.003}
    (made / "train.yaml").write_text(yaml.safe_dump(settings))
    return made


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of threads; none is at work here
def test_a_command_that_is_killed_at_any_moment_leaves_nothing_half_written(folder: Path) -> None:
    rows, base = folder / "rows.jsonl", ("--model", folder / "tiny")
    commands: dict[str, list[object]] = {
        "audit": ["audit", rows, *base],
        "repoison": ["repoison", rows, "--audit", folder / "audit" / "audit.json", "--trigger", "paper"],
        "train": ["train", folder / "repoison", *base, "--config", folder / "train.yaml"],
    }
    drawn = random.Random()
    for name, words in commands.items():
        seconds = finished(*words, "--out", folder / name)
        whole, out = content(folder / name), folder / f"{name}-killed"
        for _ in range(KILLS):
            process = begun(*words, "--out", out)
            time.sleep(seconds * drawn.uniform(0.0, 1.0))
            process.kill()
            process.join()
            if out.exists() and is_done(out):  # the next begins anew
                assert content(out) == whole
                shutil.rmtree(out)
        finished(*words, "--out", out)
        assert content(out) == whole
        assert not [*folder.glob(f".{out.name}.*")]
