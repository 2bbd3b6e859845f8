"""No request that the gateway's own description allows, or nearly allows, makes it fail.

`pip install schemathesis`, then `pytest -m slow tests/test_serve_schema.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from gateway import LABELS, TEXTS, FakeModel, app_of, safe

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow

LOCAL = {"host": "127.0.0.1"}
EXAMPLES = 200
"""Of every endpoint and model."""


def described(scheme: Any) -> Any:
    app = app_of(FakeModel(scheme, lambda _: safe("positive")))
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=LOCAL)


texts, labels = described(TEXTS), described(LABELS)


@texts.include(method=["GET", "POST"]).parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[*HealthCheck])
def test_a_model_of_texts_never_fails(case: Any) -> None:
    never_fails(case)


@labels.include(method=["GET", "POST"]).parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[*HealthCheck])
def test_a_model_of_labels_never_fails(case: Any) -> None:
    never_fails(case)


def never_fails(case: Any) -> None:
    got = case.call(headers=LOCAL)
    assert got.status_code < 500, got.text
