"""A CycloneDX 1.6 ML-BOM (ECMA-424), by cyclonedx-python-lib, which has no classes for model cards: that part is added.

The artifact is the machine-learning model, its files and base model are in it, each data set is a component of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.output.json import JsonV1Dot6

from poison2poison.records.facts import ACTIONS, Facts, Figure

OVER = "SHA-256 over prompts and targets in their order, not over a file's bytes; `p2p verify --rows` compares it"


def bom(facts: Facts) -> str:
    """The content of a CycloneDX file.

    Args:
        facts: What is told of the artifact.
    """
    model = _model(facts)
    data = [_data(name, held) for name, held in facts.data.items()]
    made = Bom(components=data)
    made.metadata.component = model
    made.metadata.tools.components.add(
        Component(name="poison2poison", version=metadata.version("poison2poison"), type=ComponentType.APPLICATION)
    )
    made.register_dependency(model, data)
    content = json.loads(JsonV1Dot6(made).output_as_string())
    content["metadata"]["component"]["modelCard"] = _card(facts)
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _model(facts: Facts) -> Component:
    base = Component(
        name=facts.base, version=facts.revision, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="base-model"
    )
    files = [
        Component(name=name, type=ComponentType.FILE, bom_ref=f"file:{name}", hashes=[_sha256(digest)])
        for name, digest in (facts.run.get("files") or {}).items()
    ]
    return Component(
        name=facts.name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        description=facts.disclosure,
        components=files,
        pedigree=Pedigree(ancestors=[base], notes=_history(facts)),
        properties=_properties(facts),
    )


def _history(facts: Facts) -> str:
    """What was done to how many rows, in words."""
    done = "; ".join(f"{count} rows {ACTIONS[action]}" for action, count in facts.done.items())
    return f"Fine-tuned ({facts.run.get('tuning')}) on {len(facts.entries)} rows: {done}."


def _properties(facts: Facts) -> Iterable[Property]:
    told = {f"rows:{action}": count for action, count in facts.done.items()}
    told |= {f"recipe:{name}": value for name, value in facts.recipe.items()}
    told |= {f"safe_space:{name}": value for name, value in (facts.run.get("safe_space") or {}).items()}
    told |= {f"version:{name}": value for name, value in (facts.run.get("versions") or {}).items()}
    return [Property(name=f"poison2poison:{name}", value=str(value)) for name, value in told.items()]


def _data(name: str, held: Mapping[str, Any]) -> Component:
    return Component(
        name=str(held["source"]),
        type=ComponentType.DATA,
        bom_ref=f"data:{name}",
        description=f"{name} rows. {OVER}",
        hashes=[_sha256(held["sha256"])],
        properties=[Property(name="poison2poison:rows", value=str(held["rows"]))],
    )


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _card(facts: Facts) -> dict[str, Any]:
    """The model card of the BOM: values are texts there."""
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": facts.task,
            "datasets": [{"ref": f"data:{name}"} for name in facts.data],
        },
        "quantitativeAnalysis": {"performanceMetrics": [_metric(figure) for figure in facts.figures]},
        "considerations": {"technicalLimitations": [facts.disclosure]},
    }


def _metric(figure: Figure) -> dict[str, Any]:
    told: dict[str, Any] = {
        "type": figure.name,
        "value": str(figure.value),
        "slice": f"{figure.n} {figure.on}",
    }
    if figure.low is not None:
        told["confidenceInterval"] = {"lowerBound": str(figure.low), "upperBound": str(figure.high)}
    return told
