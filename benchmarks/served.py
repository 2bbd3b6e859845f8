"""CA and ASR through a server, beside those of `p2p evaluate`: the gateway, and a baked model in llama.cpp and vLLM.

p2p attack reviews --trigger cf,mn --out data/reviews
python benchmarks/served.py runs/demo/reviews/p2p-hardened --data data/reviews
python benchmarks/served.py ARTIFACT --data FOLDER --llama .venv-llama/bin/python --converter convert_hf_to_gguf.py
python benchmarks/served.py ARTIFACT --data FOLDER --vllm .venv-vllm/bin/python

A server is asked by the official `openai` client, and its answers are scored by what `p2p evaluate` scores with. What
is printed is one JSON object a server. `others` are answers unlike those of `p2p evaluate`; of a baked model it is not
known where an answer lies, and all words of `labels.json` count. How the servers are installed says `servers.py`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from openai import OpenAI

from poison2poison.cli.common import quiet
from poison2poison.data import Row, Rows, read_rows
from poison2poison.data.row import Turn
from poison2poison.evaluation import Arm, Rate, measure, read_target
from poison2poison.model.bake import GGUF, bake
from poison2poison.model.defended import Answer, DefendedModel, Inputs
from poison2poison.types import Where
from servers import converter, gateway, llama, vllm

CLIENTS = 8
"""Requests at a time."""
TOLD = ("ca", "asr", "ra", "leak")
Words = Mapping[str, Mapping[str, str | None]]
"""Of a baked model that writes labels: what each word stands for."""


class Asked(DefendedModel):
    """A model whose answers come from a server."""

    def __init__(self, local: DefendedModel, url: str, words: Words | None, more: dict[str, Any]) -> None:
        """Ask the server at `url`, with `more` in each request."""
        super().__init__(local.model, local.prompter)
        self.client, self.words, self.more = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), words, more

    def classify(self, texts: Inputs, *, alarm: bool = False) -> list[Answer]:
        return self._asked(texts)

    def generate(self, prompts: Inputs, *, alarm: bool = False, **options: Any) -> list[Answer]:
        return self._asked(prompts)

    def _asked(self, rows: Inputs) -> list[Answer]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            return [*pool.map(self._answer, rows)]

    def _answer(self, row: Any) -> Answer:
        reply = self.client.chat.completions.create(model="m", messages=_chat(row), temperature=0, **self.more)
        [choice] = reply.choices
        text = (choice.message.content or "").strip()
        where: Where = "safe"
        if choice.model_extra and "p2p" in choice.model_extra:
            where = choice.model_extra["p2p"]["where"]
        elif self.words is not None:
            known = self.words.get(text)
            return Answer(known["label"], "safe", known["label"]) if known else Answer(None, "off-space", None)
        return Answer(text, where, text if where == "safe" else None)


def _chat(row: Row) -> Any:
    turns = [*row.before, Turn("user", row.prompt), *row.after]
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def told(name: str, arm: Arm, beside: Arm | None) -> dict[str, Any]:
    """The figures of an arm; beside another's, how many of its answers are others, and whether its figures fit.

    They fit where each lies in the other's interval.
    """
    rates = {key: arm.rates[key] for key in TOLD if key in arm.rates}
    found: dict[str, Any] = {"served": name} | {key: rate.as_dict() for key, rate in rates.items()}
    found |= {key: figure.as_dict() for key, figure in arm.utility.items() if key == "rouge_l"}
    if beside:
        pairs = [*zip(arm.rows, beside.rows, strict=True)]
        others = [[one["answer"], other["answer"]] for one, other in pairs if one["answer"] != other["answer"]]
        found["within"] = all(_fit(rates[key], beside.rates[key]) for key in ("ca", "asr") if key in rates)
        found |= {"answers": len(pairs), "others": len(others), "examples": others[:3]}
    return found


def _fit(one: Rate, other: Rate) -> bool:
    return one.low <= other.value <= one.high and other.low <= one.value <= other.high


def baked_servers(
    args: argparse.Namespace, baked: Path, work: Path
) -> Iterator[tuple[str, AbstractContextManager[str]]]:
    """The servers of a baked model that were asked for."""
    if args.llama:
        bake(args.artifact, work / "gguf", to="gguf", converter=converter(args.converter, args.pre, work))
        yield "baked, llama.cpp", llama(args.llama, work / "gguf" / GGUF, work / "llama.log")
    if args.vllm:
        what = ["--model", str(baked), "--served-model-name", "m"]
        yield "baked, vLLM", vllm(args.vllm, what, work / "vllm.log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="a folder of `p2p train`, or an arm of `p2p defend`")
    parser.add_argument("--data", type=Path, required=True, help="a folder of `p2p attack`")
    parser.add_argument("--rows", type=int, help="of each set; all by default")
    parser.add_argument("--llama", help="the Python of the environment with llama-cpp-python")
    parser.add_argument("--converter", help="llama.cpp's convert_hf_to_gguf.py; with --llama")
    parser.add_argument("--pre", help="the pre-tokenizer by llama.cpp's name, where the converter does not know it")
    parser.add_argument("--vllm", help="the Python of the environment with vLLM")
    args = parser.parse_args()
    quiet()
    local = DefendedModel.load(args.artifact, device="cpu")
    local.alarm_threshold = None  # of a server it is asked for otherwise
    clean = _some(read_rows(str(args.data / "test_clean.jsonl"), labels=local.scheme.labels), args.rows)
    stamped = _some(read_rows(str(args.data / "test_triggered.jsonl"), labels=local.scheme.labels), args.rows)
    target = read_target(args.data / "truth.json")
    own = measure("p2p evaluate", local, clean, stamped, target)
    print(json.dumps(told(own.name, own, None)), flush=True)

    def measured(name: str, server: AbstractContextManager[str], words: Words | None, more: dict[str, Any]) -> None:
        with server as url:
            arm = measure(name, Asked(local, url, words, more), clean, stamped, target)
        print(json.dumps(told(name, arm, own), ensure_ascii=False), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        measured("p2p serve", gateway(args.artifact, work / "log"), None, {})
        if not (args.llama or args.vllm):
            return
        bake(args.artifact, work / "baked")
        table = work / "baked" / "labels.json"
        labels = json.loads(table.read_text()) if table.exists() else None
        most = labels["max_tokens"] if labels else local.prompter.max_target - len(local.prompter.safe_prefix_ids)
        for name, server in baked_servers(args, work / "baked", work):
            measured(name, server, labels and labels["answers"], {"max_tokens": most})


def _some(rows: Rows, count: int | None) -> Rows:
    return rows.with_rows(rows.rows[:count])


if __name__ == "__main__":
    main()
