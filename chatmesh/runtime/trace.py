"""Traces: 25 binary bytes carried in messages, and spans made only for sampled ones.

A trace context is `trace_id(16) span_id(8) flags(1)`; b"" is none. Testing its flag costs a tenth
of a microsecond; a span through the OpenTelemetry API costs 4 to 7 even when sampled out. So hops
on the message path test the flag first, and `Tracer.hop` records one finished span directly.

Rules: hostile input in, none out: a malformed header is no context; baggage is not forwarded.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Final, Protocol, TypeAlias

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from chatmesh.runtime.callers import caller_if_any
from chatmesh.runtime.logs import logger
from chatmesh.runtime.tally import TALLY

TraceContext: TypeAlias = bytes
NONE: Final[TraceContext] = b""
SIZE_BYTES: Final = 25
_SAMPLED: Final = 0x01
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
CALLER: Final = "chatmesh.caller"
MAX_LINKS: Final = 128
"""OpenTelemetry's default limit of links on a span; the rest would be cut by collectors."""
FLUSH_SECONDS: Final = 3.0
CLOSE_SECONDS: Final = 1.0

_log = logger(__name__)

Attributes = Mapping[str, str | bool | int | float]


class TelemetrySettings(Protocol):
    """What `telemetry` reads of a server's settings."""

    @property
    def trace_sample_ratio(self) -> float:
        """Share of new traces that are recorded, 0 to 1."""
        ...


def from_traceparent(header: str) -> TraceContext:
    """The context of a W3C `traceparent` header; b"" when it is malformed."""
    match = _TRACEPARENT.fullmatch(header)
    if match is None:
        return NONE
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest):
        return NONE
    if trace_id == "0" * 32 or span_id == "0" * 16:
        return NONE
    return bytes.fromhex(trace_id + span_id) + bytes((int(flags, 16) & _SAMPLED,))


def to_traceparent(context: TraceContext) -> str:
    """The W3C `traceparent` header of a context; "" for none."""
    if len(context) != SIZE_BYTES:
        return ""
    return f"00-{context[:16].hex()}-{context[16:24].hex()}-{context[24]:02x}"


def is_sampled(context: TraceContext) -> bool:
    """Whether spans are wanted for this context."""
    return len(context) == SIZE_BYTES and bool(context[24] & _SAMPLED)


def is_context(context: bytes) -> bool:
    """Whether bytes from a message are a context (b"" is not)."""
    return len(context) == SIZE_BYTES


def new_root(sampled: bool) -> TraceContext:
    """The context of a new trace, whose first span is still to come (its span id is random)."""
    return _random_bytes(16) + _random_bytes(8) + (b"\x01" if sampled else b"\x00")


def _random_bytes(count: int) -> bytes:
    """Never all zero (W3C: an invalid id)."""
    while not (number := random.getrandbits(8 * count)):
        pass
    return number.to_bytes(count, "big")


_current: ContextVar[TraceContext] = ContextVar("trace", default=NONE)


def current_context() -> TraceContext:
    """The context that came with the call being handled; b"" when there is none."""
    return _current.get()


def set_current_context(context: TraceContext) -> None:
    """Bind the context to the running call; for the interceptor."""
    _current.set(context)


class Tracer:
    """Records finished spans. Without processors it records nothing and costs nothing."""

    def __init__(
        self,
        service: str,
        processors: Sequence[SpanProcessor] = (),
        sample_ratio: float = 0.0,
        resource: Resource | None = None,
    ) -> None:
        self._processors = tuple(processors)
        self._ratio = sample_ratio if self._processors else 0.0
        self._resource = resource or Resource.create({"service.name": service})
        self._scope = InstrumentationScope("chatmesh.runtime.trace")

    def root(self) -> TraceContext:
        """A new trace, sampled by the ratio of the settings."""
        return new_root(random.random() < self._ratio)

    def hop(
        self,
        name: str,
        parent: TraceContext,
        start_ns: int,
        end_ns: int,
        attributes: Attributes | None = None,
        links: Sequence[TraceContext] = (),
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        error: str = "",
    ) -> TraceContext:
        """Record one finished span below `parent` and return its context.

        Call it only when `is_sampled(parent)`. Times are Unix nanoseconds. Links beyond 128 are
        dropped. `error`, when given, marks the span as failed. Inside a call of the mesh face the
        span tells which service called (`chatmesh.caller`): a trace's parents follow the message,
        so they do not say who asked whom.
        """
        span_id = _random_bytes(8)
        made = parent[:16] + span_id + parent[24:25]
        if not self._processors:
            return made
        TALLY.spans += 1
        if caller := caller_if_any():
            attributes = {**(attributes or {}), CALLER: caller}
        span = ReadableSpan(
            name,
            context=_span_context(made, is_remote=False),
            parent=_span_context(parent, is_remote=True),
            resource=self._resource,
            attributes=attributes or {},
            links=[
                Link(_span_context(link, is_remote=True))
                for link in links[:MAX_LINKS]
                if len(link) == SIZE_BYTES
            ],
            kind=kind,
            status=Status(StatusCode.ERROR, error) if error else _UNSET,
            start_time=start_ns,
            end_time=end_ns,
            instrumentation_scope=self._scope,
        )
        for processor in self._processors:
            processor.on_end(span)
        return made

    async def flush(self) -> None:
        """Send what is waiting, for at most FLUSH_SECONDS; for the end of a process and tests."""
        for processor in self._processors:
            await _bounded(processor.force_flush, FLUSH_SECONDS)


_UNSET: Final = Status(StatusCode.UNSET)
_FLAGS: Final = TraceFlags(TraceFlags.SAMPLED)


def _span_context(context: TraceContext, is_remote: bool) -> SpanContext:
    return SpanContext(
        int.from_bytes(context[:16], "big"),
        int.from_bytes(context[16:24], "big"),
        is_remote,
        _FLAGS,
    )


@asynccontextmanager
async def telemetry(service: str, settings: TelemetrySettings) -> AsyncIterator[Tracer]:
    """A tracer with an OTLP exporter by the `OTEL_…` variables; it is flushed at the end.

    Without an endpoint in the environment there is no exporter and nothing is recorded.
    """
    processors: list[SpanProcessor] = []
    exporters: list[SpanExporter] = []
    if _exporter_wanted():
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporters.append(OTLPSpanExporter())
        processors.append(BatchSpanProcessor(exporters[0]))
    tracer = Tracer(
        service,
        processors,
        settings.trace_sample_ratio,
        Resource.create({"service.name": service, "process.pid": os.getpid()}),
    )
    try:
        yield tracer
    finally:
        await tracer.flush()
        for exporter in exporters:  # first: it ends the retries that the processor waits for
            await _bounded(exporter.shutdown, CLOSE_SECONDS)
        for processor in processors:
            await _bounded(processor.shutdown, CLOSE_SECONDS)


async def _bounded(work: Callable[[], object], seconds: float) -> None:
    """Run blocking work in a daemon thread, and leave it behind when it takes longer.

    A collector that does not answer must not hold up the end of a process; the threads of
    asyncio.to_thread would, because the loop joins them.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="telemetry", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            await done.wait()
    except TimeoutError:
        _log.warning("the trace collector does not answer, spans are lost")


def _exporter_wanted() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return bool(
        os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )
