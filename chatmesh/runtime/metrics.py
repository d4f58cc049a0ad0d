"""Metrics that servers share, by name, and the HTTP port that shows them.

Role: where a metric gets its name, help, labels and buckets; services ask for one by its spec. What
one service alone counts stands in its `measures.py`, in the same form. `/metrics`, `/readyz` and
`/livez` are served by a thread of their own, so that a blocked event loop can still be seen.

Rules: no user, device, conversation or message in a label; label values come from closed sets.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

import chatmesh
from chatmesh.runtime import tally
from chatmesh.runtime.errors import AddressTaken
from chatmesh.runtime.readiness import Readiness

SECONDS_BUCKETS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
SIZE_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
LAG_INTERVAL_SECONDS: Final = 0.5
"""How often the loop's lag is sampled: two wake-ups a second are not noticed."""

REGISTRY: Final = CollectorRegistry()


@dataclass(frozen=True, slots=True)
class Spec:
    """A metric's name, help, labels and (for histograms) bucket bounds."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS_BUCKETS


# RED of every RPC. `code` is the gRPC status name, `face` public or mesh.
RPC_HANDLED: Final = Spec(
    "chatmesh_rpc_handled_total", "RPCs ended, by status", ("face", "method", "code")
)
RPC_SECONDS: Final = Spec(
    "chatmesh_rpc_seconds", "Time of unary RPCs in seconds", ("face", "method")
)
RPC_OPEN: Final = Spec("chatmesh_rpc_open", "RPCs being handled", ("face", "method"))

# The process
LOOP_LAG_SECONDS: Final = Spec(
    "chatmesh_event_loop_lag_seconds", "How late a timer of the event loop fired"
)
BACKGROUND_DEATHS: Final = Spec(
    "chatmesh_background_deaths_total", "Background loops that died", ("name",)
)

# Sessions and the message path
SESSIONS: Final = Spec("chatmesh_sessions", "Live sessions of this node")
BATCH_SIZE: Final = Spec(
    "chatmesh_batch_size", "Items handled at once", ("path",), buckets=SIZE_BUCKETS
)
COMMIT_SECONDS: Final = Spec("chatmesh_commit_seconds", "Time of one commit call in seconds")
OUTBOX_ROWS: Final = Spec("chatmesh_outbox_rows", "Outbox rows of this node")
OUTBOX_AGE_SECONDS: Final = Spec(
    "chatmesh_outbox_age_seconds", "Age of the oldest outbox row of this node"
)
HOLES_FILLED: Final = Spec(
    "chatmesh_holes_filled_total", "Timeline holes filled from the store", ("cause",)
)
STREAM_REOPENS: Final = Spec(
    "chatmesh_stream_reopens_total", "Long-lived streams opened again", ("stream", "cause")
)
STREAM_RESENDS: Final = Spec(
    "chatmesh_stream_resends_total", "Requests sent again after a reopen", ("stream",)
)
STREAM_DROPPED: Final = Spec(
    "chatmesh_stream_dropped_total", "Frames not taken because a queue was full", ("stream",)
)

# Stores
POSTGRES_CALLS: Final = Spec("chatmesh_postgres_calls_total", "Calls to PostgreSQL", ("lane",))
POSTGRES_LOST: Final = Spec(
    "chatmesh_postgres_lost_total", "PostgreSQL connections lost", ("lane",)
)

# Push
PUSH_JOBS: Final = Spec("chatmesh_push_jobs_total", "Push jobs ended, by outcome", ("outcome",))
PUSH_PENDING: Final = Spec("chatmesh_push_pending", "Push jobs that are due or waiting")

_made: dict[str, Any] = {}


def counter(spec: Spec) -> Counter:
    """The counter of `spec`, one per process."""
    metric = _made.get(spec.name)
    if metric is None:
        metric = _made[spec.name] = Counter(spec.name, spec.help, spec.labels, registry=REGISTRY)
    if not isinstance(metric, Counter):
        raise TypeError(f"{spec.name} is not a counter")
    return metric


def gauge(spec: Spec) -> Gauge:
    """The gauge of `spec`, one per process."""
    metric = _made.get(spec.name)
    if metric is None:
        metric = _made[spec.name] = Gauge(spec.name, spec.help, spec.labels, registry=REGISTRY)
    if not isinstance(metric, Gauge):
        raise TypeError(f"{spec.name} is not a gauge")
    return metric


def histogram(spec: Spec) -> Histogram:
    """The histogram of `spec`, one per process."""
    metric = _made.get(spec.name)
    if metric is None:
        metric = _made[spec.name] = Histogram(
            spec.name, spec.help, spec.labels, buckets=spec.buckets, registry=REGISTRY
        )
    if not isinstance(metric, Histogram):
        raise TypeError(f"{spec.name} is not a histogram")
    return metric


class RpcMetrics:
    """RED of one method on one face; labels are looked up once, not per call."""

    def __init__(self, face: str, method: str) -> None:
        self._face, self._method = face, method
        self._open = gauge(RPC_OPEN).labels(face, method)
        self._seconds = histogram(RPC_SECONDS).labels(face, method)
        self._handled = counter(RPC_HANDLED)  # shown from the start, not from the first end on
        self._codes: dict[str, Counter] = {}

    def begin(self) -> None:
        """An RPC began."""
        self._open.inc()

    def end(self, code: str, seconds: float | None) -> None:
        """It ended with `code`; `seconds` for unary RPCs only: a session's length is no latency."""
        self._open.dec()
        ended = self._codes.get(code)
        if ended is None:
            ended = self._codes[code] = self._handled.labels(self._face, self._method, code)
        ended.inc()
        if seconds is not None:
            self._seconds.observe(seconds)


async def measure_loop_lag() -> None:
    """Sample the event loop's lag for ever; run in the background."""
    lag = histogram(LOOP_LAG_SECONDS)
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_INTERVAL_SECONDS
        await asyncio.sleep(LAG_INTERVAL_SECONDS)
        lag.observe(max(0.0, loop.time() - due))


def register_process_metrics() -> None:
    """CPU, memory, descriptors, garbage collections and the versions of this process."""
    if "process" not in _made:
        _made["process"] = (
            ProcessCollector(registry=REGISTRY),
            PlatformCollector(registry=REGISTRY),
            GCCollector(registry=REGISTRY),
        )
        REGISTRY.register(_TallyCollector())
        build = Gauge("chatmesh_build_info", "Always 1; what runs", ("version",), registry=REGISTRY)
        build.labels(chatmesh.__version__).set(1)


class _TallyCollector(Collector):
    """The runtime's plain counts, read when somebody scrapes."""

    def collect(self) -> Iterable[CounterMetricFamily]:
        """One counter for each."""
        for name, text in tally.HELP.items():
            value = getattr(tally.TALLY, name)
            yield CounterMetricFamily(f"chatmesh_tally_{name}", text, value=value)


class MetricsServer:
    """GET /metrics, /readyz, /livez on one address, from a daemon thread."""

    def __init__(self, address: str, readiness: Readiness | None = None) -> None:
        host, _, port = address.rpartition(":")
        handler = type("_Handler", (_Handler,), {"readiness": readiness})
        try:
            self._server = _Server((host.strip("[]"), int(port)), handler)
        except OSError as error:
            raise AddressTaken(address, error.strerror or "cannot listen") from None
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port. Blocks up to half a second."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16


class _Handler(BaseHTTPRequestHandler):
    readiness: Readiness | None = None
    timeout = 5  # seconds; a scraper that stalls holds a thread no longer

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, generate_latest(REGISTRY), CONTENT_TYPE_LATEST)
        elif path == "/livez":
            self._answer(200, b"ok\n", "text/plain")
        elif path == "/readyz":
            missing: Mapping[str, str] = self.readiness.missing() if self.readiness else {}
            degraded: Mapping[str, str] = self.readiness.degraded() if self.readiness else {}
            body = {"ready": not missing, "missing": missing, "degraded": degraded}
            self._answer(
                503 if missing else 200, json.dumps(body).encode() + b"\n", "application/json"
            )
        else:
            self._answer(404, b"not found\n", "text/plain")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Scrapes are not logged."""
