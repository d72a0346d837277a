"""What is counted of requests, for Prometheus."""

from __future__ import annotations

import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from emogen.dialogue.engine import Engine
from emogen.server.record import Record

_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_WHOLE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, engine: Engine, max_batch_size: int, clock: Callable[[], float]) -> None:
        """Of a server whose engine writes `max_batch_size` replies at once; `clock` in seconds."""
        self._clock, self._made, self._text = clock, -math.inf, b""
        self._registry = CollectorRegistry()
        here = self._registry
        self._requests = Counter(
            "emogen_requests", "Requests that were answered.", ("method", "route", "status"), registry=here
        )
        self._first = Histogram("emogen_first_token_seconds", "From request to first text.", buckets=_FIRST, registry=here)
        self._whole = Histogram(
            "emogen_reply_seconds", "From request to the end of its replies.", buckets=_WHOLE, registry=here
        )
        self._tokens = Counter("emogen_tokens", "Tokens that were read and written.", ("kind",), registry=here)
        self._cancelled = Counter("emogen_cancelled", "Requests whose client left before the end.", registry=here)
        self._feedback = Counter("emogen_feedback", "Opinions that were stored.", ("verdict",), registry=here)
        running = Gauge("emogen_running", "Replies that are being written.", registry=here)
        running.set_function(lambda: min(engine.unfinished, max_batch_size))
        waiting = Gauge("emogen_waiting", "Replies that wait for room.", registry=here)
        waiting.set_function(lambda: max(0, engine.unfinished - max_batch_size))

    def count(self, record: Record) -> None:
        """Count a request that is over."""
        self._requests.labels(record.method, record.route, record.status or "none").inc()
        if record.first is not None:
            self._first.observe(record.first)
        if record.tokens:
            self._whole.observe(record.seconds)
            self._tokens.labels("prompt").inc(record.prompt_tokens)
            self._tokens.labels("completion").inc(record.tokens)
        if record.is_cancelled:
            self._cancelled.inc()
        for verdict in record.verdicts:
            self._feedback.labels(verdict).inc()

    def as_text(self) -> bytes:
        """Return the figures in Prometheus' own format.

        Made at most once a second, since it costs more than most answers do.
        """
        now = self._clock()
        if now - self._made >= 1:
            self._text, self._made = bytes(generate_latest(self._registry)), now
        return self._text
