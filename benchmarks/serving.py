"""What the defence costs behind the gateway: 64 clients at once, defended against undefended, in one process.

python benchmarks/serving.py                                   # the reference model, 4 M
python benchmarks/serving.py --inputs 16 --tokens 4 16 64      # short inputs, answers of three lengths
python benchmarks/serving.py --load 5000                       # a load test of the defended arm; takes minutes
python benchmarks/serving.py --load 1000 --artifact runs/demo/instructions/p2p-hardened --task instructions

The same weights answer the same inputs with as many new tokens, once without a scheme and once behind a drawn one;
times do not depend on what the weights were trained for. Clients call the apps without sockets. Prints ratios of the
medians for each length of inputs and answers, what was lost, and how the memory grew. CPU time has the clients in it.

`--load` compares every reply with the model's own answer to that input alone: text, and where it lies. Where the texts
differ, it says whether rounding explains it: the model read alone likes both tokens at the first difference nearly as
well, by less than a batch moves the loss of a token.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import time
from itertools import product, takewhile
from typing import Any, NamedTuple

import httpx2
import transformers

from poison2poison.config import REFERENCE, ModelConfig
from poison2poison.data import Row
from poison2poison.model import backbone
from poison2poison.model.continuations import continuation
from poison2poison.model.defended import DefendedModel
from poison2poison.model.prompting import Prompter
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.scheme import Scheme
from poison2poison.recipe.trigger import build_scheme
from poison2poison.reference import reference_rows
from poison2poison.serve.app import Served, create_app
from poison2poison.serve.backends import InProcess
from poison2poison.serve.config import ServeConfig
from poison2poison.serve.door import Ask, Door

ROOM = 2048
"""Tokens of an input and its answer; more than the model was trained on, which does not change what it costs."""
Told = tuple[str, str]
"""An answer's text, and where it lies."""


class Round(NamedTuple):
    """What one round came to: seconds a request, in all, and of the CPU; requests without an answer; replies unlike
    those alone."""

    latencies: list[float]
    seconds: float
    cpu: float
    lost: int
    others: list[tuple[str, Told]]


def said_of(reply: httpx2.Response) -> Told | None:
    """What a reply says, or None where it is no answer with its place."""
    if reply.status_code != 200:
        return None
    choice = reply.json()["choices"][0]
    return choice["text"], choice["p2p"]["where"]


def peak() -> float:
    """The most memory that the process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Fixed(DefendedModel):
    """Writes as many tokens for every input."""

    tokens = 16

    def generate(self, prompts: Any, **options: Any) -> Any:
        return super().generate(prompts, min_new_tokens=self.tokens, max_new_tokens=self.tokens, **options)


def fixed(model: Any, scheme: Scheme, tokens: int) -> Fixed:
    """The weights under a scheme."""
    tokenizer = backbone.load_tokenizer(REFERENCE)
    free = Prompter(tokenizer, scheme, "causal", max_length=ROOM, max_target=64)
    most = tokens + len(free.safe_prefix_ids)
    served = Fixed(model, Prompter(tokenizer, scheme, "causal", max_length=ROOM, max_target=most))
    served.tokens = tokens
    return served


class Arm:
    """A gateway over a model."""

    def __init__(self, served: DefendedModel, clients: int) -> None:
        config = ServeConfig(queue=4 * clients, timeout=600)
        self.backend = InProcess(served, Door(served.prompter, config), config)
        self.app = create_app(self.backend, Served("model"), config)

    def alone(self, prompt: str) -> Told:
        """What the model answers to an input that it is asked alone, as the gateway would tell it."""
        ask = Ask(Row(prompt, ""))
        [answer] = self.backend.model.generate([ask.row])
        said = self.backend.door.leave(ask, answer)
        return said.text or "", said.told

    async def round(
        self, prompts: list[str], clients: int, requests: int, expected: dict[str, Told] | None = None
    ) -> Round:
        """So many clients that ask one request after the other; answers are compared where they are known."""
        left = iter(range(requests))
        latencies: list[float] = []
        others: list[tuple[str, Told]] = []
        lost = 0

        async def client(http: httpx2.AsyncClient) -> None:
            nonlocal lost
            for number in left:
                begun, prompt = time.perf_counter(), prompts[number % len(prompts)]
                got = await http.post("/v1/completions", json={"model": "model", "prompt": prompt})
                latencies.append(time.perf_counter() - begun)
                if expected and len(latencies) % (requests // 5 or 1) == 0:
                    print(f"{len(latencies)} requests, peak memory so far: {peak():.0f} MiB", flush=True)
                told = said_of(got)
                lost += told is None
                if told and expected and told != expected[prompt]:
                    others.append((prompt, told))

        begun, used = time.perf_counter(), time.process_time()
        transport = httpx2.ASGITransport(app=self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            await asyncio.gather(*(client(http) for _ in range(clients)))
        seconds, cpu = time.perf_counter() - begun, time.process_time() - used
        return Round(latencies, seconds, cpu, lost, others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=64, help="of every round")
    parser.add_argument(
        "--inputs", type=int, nargs="+", default=[16, 128, 512], help="tokens of every input, a row each"
    )
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[16, 64], help="new tokens of every answer, a row each"
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each arm, after one that is not")
    parser.add_argument("--load", type=int, help="requests of a load test, in place of the comparison")
    parser.add_argument("--artifact", help="with --load: a trained model that writes, in place of an untrained one")
    parser.add_argument("--task", default="briefs", help="the reference task whose test rows are asked")
    args = parser.parse_args()
    if args.artifact and not args.load:
        parser.error("--artifact is for --load")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = reference_rows(args.task, sizes={"test": max(500, args.load or 0)})["test"]
    prompts = [row.prompt for row in rows]
    if args.artifact:
        served = DefendedModel.load(args.artifact, device="cpu", allow_unlearned=True)
        asyncio.run(loaded(Arm(served, args.clients), prompts[: args.load], args))
        return
    model = backbone.load_model(ModelConfig(), "causal", 0, frozen=True)
    schemes = {"undefended": Scheme("generation"), "defended": build_scheme(rows, RepoisonConfig())}

    def arms(tokens: int) -> dict[str, Arm]:
        return {name: Arm(fixed(model, scheme, tokens), args.clients) for name, scheme in schemes.items()}

    if args.load:
        asyncio.run(loaded(arms(args.tokens[0])["defended"], prompts[: 2 * args.clients], args))
        return
    hidden = {name: len(arm.backend.door.enter(Ask(Row("", "")))) for name, arm in arms(args.tokens[0]).items()}
    print(f"tokens around an input: {hidden}")
    for tokens, length in product(args.tokens, args.inputs):
        compared(arms(tokens), of_length(prompts, length, args.requests), args, f"{length} tokens in, {tokens} out")


def of_length(prompts: list[str], length: int, count: int) -> list[str]:
    """So many inputs of so many tokens, made of prompts one behind the other."""
    tokenizer = backbone.load_tokenizer(REFERENCE)
    ids = tokenizer(" ".join(prompts), add_special_tokens=False)["input_ids"]
    starts = [number * (len(ids) - length) // count for number in range(count)]
    return [str(tokenizer.decode(ids[start : start + length])) for start in starts]


def compared(arms: dict[str, Arm], prompts: list[str], args: argparse.Namespace, row: str) -> None:
    """Measure both arms on these inputs, and print what the defended one costs."""
    found = asyncio.run(timed(arms, prompts, args))
    medians = {name: summary(f"{row}, {name}", rounds) for name, rounds in found.items()}
    ratios = [ours / theirs for ours, theirs in zip(medians["defended"], medians["undefended"], strict=True)]
    told = ", ".join(f"{what} {ratio:.3f}" for what, ratio in zip(WHAT, ratios, strict=True))
    print(f"{row}, defended / undefended: {told}", flush=True)


async def timed(arms: dict[str, Arm], prompts: list[str], args: argparse.Namespace) -> dict[str, list[Round]]:
    """The rounds of all arms in turn, without the first."""
    found: dict[str, list[Round]] = {name: [] for name in arms}
    for arm in arms.values():
        arm.backend.start()
    for _ in range(args.rounds + 1):
        for name, arm in arms.items():
            found[name].append(await arm.round(prompts, args.clients, args.requests))
    for arm in arms.values():
        await arm.backend.close()
    return {name: rounds[1:] for name, rounds in found.items()}


async def loaded(arm: Arm, prompts: list[str], args: argparse.Namespace) -> None:
    """A load test: no reply may be lost, and rounding alone may make one differ from the answer alone."""
    expected = {prompt: arm.alone(prompt) for prompt in prompts}
    arm.backend.start()
    found = await arm.round(prompts, args.clients, args.load, expected)
    await arm.backend.close()
    summary("defended", [found])
    print(
        f"{len(expected)} inputs, {len({*expected.values()})} answers; replies unlike those alone: {len(found.others)}"
    )
    others = {(prompt, text) for prompt, (text, _) in found.others if text != expected[prompt][0]}
    pairs = [(prompt, expected[prompt][0], text) for prompt, text in sorted(others)]
    gaps = [gap(arm.backend.model, *pair) for pair in pairs]
    moved = batched(arm.backend.model, {prompt: text for prompt, (text, _) in expected.items()})
    print(f"a batch moves the loss of a token by {moved:.4f} at most; gaps of texts that differ: {sorted(gaps)}")


def gap(model: DefendedModel, prompt: str, one: str, other: str) -> float:
    """How much more the model, alone, likes the first token of an answer that another one has not."""
    [ours], [theirs] = (model.losses([prompt], [text], model.space) for text in (one, other))
    ids, others = (continuation(model.prompter.encoder, text) for text in (one, other))
    shared = len([*takewhile(lambda pair: pair[0] == pair[1], zip(ids, others, strict=False))])
    return round(float(theirs[shared] - ours[shared]), 4)


def batched(model: DefendedModel, answers: dict[str, str], count: int = 64) -> float:
    """The most by which the loss of an answer's token differs in a batch and alone."""
    prompts = [*answers][:count]
    texts = [answers[prompt] for prompt in prompts]
    alone = [model.losses([prompt], [text], model.space)[0] for prompt, text in zip(prompts, texts, strict=True)]
    together = model.losses(prompts, texts, model.space)
    return max(float((one - other).abs().max()) for one, other in zip(alone, together, strict=True))


WHAT = ("median latency", "99 % latency", "requests a second", "CPU time")


def summary(name: str, rounds: list[Round]) -> list[float]:
    """Medians over the rounds, which are printed too."""
    middle = statistics.median(statistics.median(one.latencies) for one in rounds)
    late = statistics.median(sorted(one.latencies)[int(0.99 * len(one.latencies))] for one in rounds)
    rate = statistics.median(len(one.latencies) / one.seconds for one in rounds)
    cpu = statistics.median(one.cpu for one in rounds)
    lost = sum(one.lost for one in rounds)
    print(f"{name}: median {middle:.3f} s, 99 % {late:.3f} s, {rate:.1f} requests/s, CPU {cpu:.1f} s, lost {lost}")
    if lost:
        raise SystemExit("requests were lost: the times mean nothing")
    return [middle, late, rate, cpu]


if __name__ == "__main__":
    main()
