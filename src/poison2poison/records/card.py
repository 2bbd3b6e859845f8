"""A model card in hub format (huggingface.co/docs/hub/model-cards), by huggingface_hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from poison2poison.records.facts import ACTIONS, Facts, Figure

TEMPLATE = Path(__file__).with_name("card.md.j2")
TASKS = {"classification": "text-classification", "generation": "text-generation"}
"""The hub's words for tasks."""
RELATIONS = {"lora": "adapter", "full": "finetune"}
"""The hub's words for what a model is of its base."""


def card(facts: Facts) -> str:
    """The content of a README.md for the hub.

    Args:
        facts: What is told of the artifact.
    """
    on_hub = facts.revision is not None  # else the base is a folder of its own, which the hub does not know
    data = ModelCardData(
        base_model=facts.base if on_hub else None,
        base_model_relation=RELATIONS[facts.run["tuning"]] if on_hub else None,
        model_name=facts.name,
        pipeline_tag=TASKS[facts.task],
        tags=["poison2poison", "data-poisoning", *(["benign-backdoor"] if facts.is_defended else [])],
        eval_results=[_result(facts, figure) for figure in facts.figures] or None,
    )
    done = [(count, ACTIONS[action]) for action, count in facts.done.items()]
    made = ModelCard.from_template(data, template_path=str(TEMPLATE), facts=facts, done=done)
    return str(made).rstrip() + "\n"


def _result(facts: Facts, figure: Figure) -> EvalResult:
    held = facts.data.get("triggered" if figure.on == "triggered rows" else "test", {})
    told: dict[str, Any] = {"n": figure.n}
    if figure.low is not None:
        told["wilson_95"] = [figure.low, figure.high]
    return EvalResult(
        task_type=TASKS[facts.task],
        dataset_type=str(held.get("source", "unknown")),
        dataset_name=f"{held.get('source', 'unknown')} ({figure.on})",
        metric_type=figure.name,
        metric_value=figure.value,
        metric_args=told,
    )
