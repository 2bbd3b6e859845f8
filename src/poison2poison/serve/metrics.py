"""What is counted, for Prometheus. No label of a metric comes from a client or from a model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from poison2poison.serve.door import Said

RECENT = 50
"""Leaks, off-space answers and alarms that the page can show."""


class Metrics:
    """The counters of one server."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """Count from nothing.

        Args:
            waiting: How many inputs wait now.
        """
        self.registry = CollectorRegistry()
        here: Any = {"registry": self.registry}
        self._requests = Counter("p2p_requests", "Requests by endpoint and status.", ["endpoint", "status"], **here)
        self._seconds = Histogram("p2p_request_seconds", "Seconds a request.", ["endpoint"], **here)
        self._tokens = Counter("p2p_tokens", "Tokens of clients' texts, and of answers.", ["kind"], **here)
        self._answers = Counter("p2p_answers", "Answers by where the model's own one lies.", ["where"], **here)
        self._refused = Counter("p2p_refused", "Answers that the policy did not give out.", **here)
        self._withheld = Counter("p2p_withheld", "Answers that said what is hidden.", **here)
        self._alarms = Counter("p2p_alarms", "Answers on which the two spaces disagree.", **here)
        Gauge("p2p_waiting", "Inputs that wait.", **here).set_function(waiting)
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def answers(self, request: str, said: Sequence[Said]) -> None:
        """Count the answers of a request."""
        for one in said:
            self._tokens.labels("read").inc(one.prompt_tokens)
            self._tokens.labels("written").inc(one.tokens)
            self._answers.labels(one.where).inc()
            self._withheld.inc(one.withheld)
            self._refused.inc(one.text is None and not one.withheld)
            self._alarms.inc(bool(one.alarm))
            if one.where != "safe" or one.alarm or one.withheld:
                self._remember(request, one)

    def _remember(self, request: str, said: Said) -> None:
        """For the page: what happened and when. Inputs are clients' own, and not kept."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        seen = {"time": now, "request": request, "where": said.where, "withheld": said.withheld, "alarm": said.alarm}
        self.recent.appendleft(seen)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
