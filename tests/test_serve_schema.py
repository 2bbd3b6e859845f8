"""No request that the gateway's own description allows, or nearly allows, makes it fail.

`pip install schemathesis`, then `pytest -m slow -s tests/test_serve_schema.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from gateway import LABELS, TEXTS, FakeModel, app_of, listening, safe

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow
ASKED = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/classify")
APPS = {scheme.task: app_of(FakeModel(scheme, lambda _: safe("positive"))) for scheme in (TEXTS, LABELS)}
DESCRIBED = schemathesis.openapi.from_dict(APPS["generation"].app.openapi())  # both have the same endpoints


@pytest.fixture(scope="module", params=APPS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with listening(APPS[request.param]) as where:
        yield where


@pytest.fixture(scope="module")
def statuses() -> Iterator[Counter[tuple[str, int]]]:
    """How often each endpoint has answered with each status."""
    counted: Counter[tuple[str, int]] = Counter()
    yield counted
    print(dict(sorted(counted.items())))
    assert {path for path, status in counted if status == 200} == {path for path, _ in counted}
    assert {path for path, status in counted if status == 400} == {path for path, _ in counted if path in ASKED}


@DESCRIBED.parametrize()  # type: ignore[untyped-decorator, unused-ignore]
@settings(max_examples=100, deadline=None, suppress_health_check=[*HealthCheck])
def test_no_request_makes_the_server_fail(case: Any, url: str, statuses: Counter[tuple[str, int]]) -> None:
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = "mine"  # or it would be that of nobody
    got = case.call(base_url=url, timeout=120)
    statuses[case.operation.path, got.status_code] += 1
    assert got.status_code < 500, got.text
