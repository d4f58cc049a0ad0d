"""Trace contexts and hops: what W3C says, and what the exporter gets."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from chatmesh.runtime import trace
from chatmesh.runtime.settings import ServerSettings
from chatmesh.runtime.trace import Tracer

HEADER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_there_and_back() -> None:
    context = trace.from_traceparent(HEADER)
    assert len(context) == trace.SIZE_BYTES
    assert trace.is_sampled(context)
    assert trace.to_traceparent(context) == HEADER
    assert trace.to_traceparent(b"") == ""


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (HEADER[:-2] + "00", False),
        (HEADER[:-2] + "ff", True),  # unknown flags are ignored
        ("01" + HEADER[2:] + "-future", True),
    ],
)
def test_flags_and_later_versions(header: str, sampled: bool) -> None:
    assert trace.is_sampled(trace.from_traceparent(header)) is sampled


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "00",
        HEADER.upper(),
        HEADER + "-x",
        "ff" + HEADER[2:],
        HEADER.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        HEADER.replace("b7ad6b7169203331", "0" * 16),
        HEADER + "\n",
        HEADER.replace("0af", "٠af"),
        "x" * 100_000,
    ],
)
def test_malformed_headers_are_none(bad: str) -> None:
    assert trace.from_traceparent(bad) == b""
    assert not trace.is_sampled(b"")


@pytest.mark.parametrize("junk", [b"x", b"\1" * 24, b"\1" * 26])
def test_bytes_that_are_no_context(junk: bytes) -> None:
    assert not trace.is_sampled(junk)
    assert not trace.is_context(junk)
    assert trace.to_traceparent(junk) == ""


def test_roots_differ() -> None:
    roots = {trace.new_root(sampled=True) for _ in range(100)}
    assert len({root[:16] for root in roots}) == 100
    assert not trace.is_sampled(trace.new_root(sampled=False))


def test_a_hop_is_a_finished_span_below_its_parent() -> None:
    exporter = InMemorySpanExporter()
    tracer = Tracer("chat_svc", [SimpleSpanProcessor(exporter)], 1.0)
    root = tracer.root()
    assert trace.is_sampled(root)
    links = [trace.new_root(sampled=True) for _ in range(200)]
    first = tracer.hop("commit", root, 1_000, 5_000, {"batch": 3}, links)
    second = tracer.hop("deliver", first, 6_000, 7_000, kind=SpanKind.PRODUCER, error="lost")
    one, two = exporter.get_finished_spans()
    assert (one.name, one.start_time, one.end_time) == ("commit", 1_000, 5_000)
    assert dict(one.attributes or {}) == {"batch": 3}
    assert len(one.links) == trace.MAX_LINKS
    assert one.parent is not None
    assert one.context is not None
    assert two.parent is not None
    assert two.context is not None
    assert one.parent.span_id.to_bytes(8, "big") == root[16:24]
    assert one.context.span_id.to_bytes(8, "big") == first[16:24]
    assert one.context.trace_id.to_bytes(16, "big") == root[:16]
    assert two.parent.span_id == one.context.span_id
    assert two.context.trace_id == one.context.trace_id
    assert (two.kind, two.status.is_ok, two.status.description) == (
        SpanKind.PRODUCER,
        False,
        "lost",
    )
    assert one.resource.attributes["service.name"] == "chat_svc"
    assert second[:16] == root[:16]


def test_without_exporter_nothing_is_sampled() -> None:
    assert not any(trace.is_sampled(Tracer("x", (), 1.0).root()) for _ in range(50))


async def test_telemetry_without_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    settings = ServerSettings(mesh_listen="127.0.0.1:0", trace_sample_ratio=1)
    async with trace.telemetry("x", settings) as tracer:
        assert not trace.is_sampled(tracer.root())


async def test_spans_reach_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[str] = []

    class Collector(TraceServiceServicer):
        async def Export(self, request: Any, context: Any) -> Any:
            received.extend(
                span.name
                for resource in request.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            )
            return ExportTraceServiceResponse()

    server = grpc.aio.server()
    add: Any = add_TraceServiceServicer_to_server
    add(Collector(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    settings = ServerSettings(mesh_listen="127.0.0.1:0", trace_sample_ratio=1)
    async with asyncio.timeout(30), trace.telemetry("x", settings) as tracer:
        root = tracer.root()
        assert trace.is_sampled(root)
        tracer.hop("one", root, 1, 2)
    assert received == ["one"]
    await server.stop(0)


async def test_a_dead_collector_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and never answers
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setattr(trace, "FLUSH_SECONDS", 0.1)
        settings = ServerSettings(mesh_listen="127.0.0.1:0", trace_sample_ratio=1)
        async with asyncio.timeout(8):  # the exporter alone would try for 10 s and more
            async with trace.telemetry("x", settings) as tracer:
                tracer.hop("one", tracer.root(), 1, 2)
