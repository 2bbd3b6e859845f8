"""Where the tests of a module are: the rule, and what goes by another.

The tests of `ROOM/MODULE.py` are in `tests/test_ROOM_MODULE.py`, of a room within a room by the last two names, and
those of a module that is in no room in `tests/test_MODULE.py`. Modules that work as one share a file: `TOGETHER`. A
promise that no module keeps by itself (the paper's figures, the README, every architecture) has a file of its own.
"""

from __future__ import annotations

from pathlib import Path

import poison2poison

PACKAGE = Path(poison2poison.__file__).parent
HERE = Path(__file__).parent

TOGETHER = {
    "test_attacks_meaning.py": "data/pairs",
    "test_attacks_payloads.py": "attacks/refusals",
    "test_auditing.py": "auditing/__init__ finders/questions",
    "test_spans.py": "finders/spans",
    "test_bench.py": "bench/cell bench/cells bench/config bench/runner bench/workers",
    "test_cli.py": "cli/app cli/common cli/bench cli/defend cli/export cli/models cli/rows",
    "test_model_bake.py": "cli/bake model/gguf",
    "test_model_texts.py": "model/following",
    "test_compared.py": "defences/base defences/baselines defences/p2p defences/shared",
    "test_defences.py": (
        "defences/abl defences/activation_clustering defences/causal_lm defences/confident_learning defences/context "
        "defences/cube defences/graceful defences/gradsentry defences/learner defences/onion defences/z_defence"
    ),
    "test_defences_afterwards.py": (
        "defences/clean_fine_tuning defences/cleangen defences/crow defences/fine_pruning defences/inference "
        "defences/mb_defense defences/mending defences/paraphrased defences/psim defences/rap defences/strip "
        "defences/w2s"
    ),
    "test_demo.py": "cli/demo",
    "test_export.py": (
        "export/__init__ export/axolotl export/base export/llamafactory export/openai export/record export/trl "
        "export/unsloth"
    ),
    "test_gate.py": "gate/baseline gate/findings gate/junit gate/sarif gate/summary",
    "test_how_to.py": "finders/base",
    "test_probing.py": (
        "cli/probe probing/__init__ probing/asking probing/findings probing/neutral probing/scan probing/shifts"
    ),
    "test_records.py": "cli/records records/__init__ records/bom records/card records/croissant records/facts",
    "test_reference.py": "reference/__init__ reference/lexicon reference/tasks",
    "test_report.py": "report/figures report/tables report/verdict",
    "test_report_html.py": "report/flat report/run report/summary",
    "test_review.py": "recipe/reviewed",
    "test_serve_api.py": "serve/app serve/backends serve/replies serve/responses serve/schemas",
    "test_serve_closed.py": (
        "serve/config serve/door serve/errors serve/gate serve/keys serve/logs serve/metrics serve/screen"
    ),
    "test_serve_command.py": "cli/serve serve/server",
    "test_serve_upstream.py": "serve/completions",
    "test_verify.py": "cli/verify",
}
"""Modules by the file that tests them, where that has another name: commands with what they run, and families whose
members are held to the same behaviour."""

NONE = {
    "__main__": "calls `main`; test_model_processes.py starts it",
    "types": "declarations alone",
    "attacks/__init__": "names of the room",
    "bench/__init__": "names of the room",
    "cli/__init__": "names of the room",
    "data/__init__": "names of the room",
    "defences/__init__": "names of the room",
    "evaluation/__init__": "names of the room",
    "evaluation/schema": "declarations alone",
    "finders/__init__": "names of the room",
    "gate/__init__": "names of the room",
    "model/__init__": "names of the room",
    "recipe/__init__": "names of the room",
    "report/__init__": "names of the room",
    "serve/__init__": "names of the room",
}
"""Modules that need no tests, and why."""


def name_of(path: Path) -> str:
    """A module by its room and its name; the package itself is `package`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "package" if parts == ("__init__",) else "/".join(parts[-2:])


MODULES = sorted(map(name_of, PACKAGE.rglob("*.py")))
SHARED = {name: file for file, names in TOGETHER.items() for name in names.split()}


def own_file(name: str) -> Path:
    return HERE / f"test_{name.replace('/', '_')}.py"


def test_every_module_has_a_file_of_tests_or_a_reason_to_have_none() -> None:
    assert [name for name in MODULES if not own_file(name).exists() and name not in {*SHARED, *NONE}] == []


def test_what_is_listed_is_there_and_follows_no_rule_already() -> None:
    assert {*SHARED, *NONE} - {*MODULES} == set()
    assert [file for file in TOGETHER if not (HERE / file).exists()] == []
    assert [name for name in (*SHARED, *NONE) if own_file(name).exists()] == []
    assert {*SHARED} & {*NONE} == set()


def test_no_two_modules_share_room_and_name() -> None:
    assert len({*MODULES}) == len(MODULES)
