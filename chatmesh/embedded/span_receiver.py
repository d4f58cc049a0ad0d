"""An OTLP receiver for the spans of one mesh: `python -m chatmesh.embedded.span_receiver`.

Role: a gRPC server with OpenTelemetry's TraceService, a process of its own, so that storing spans
takes nothing from the servers that make them.
Rules: answers an export only after it is stored; at most PENDING exports wait, the rest are refused
as the exporter expects (RESOURCE_EXHAUSTED is retried). Serves one machine, without TLS.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatmesh.runtime import engine

if __name__ == "__main__":
    engine.prepare()

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from chatmesh.embedded.spans import DEFAULT_CAPACITY, Span, SpanStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.proto.common.v1.common_pb2 import KeyValue

PENDING = 64
MAX_EXPORT_BYTES = 16 << 20


class TraceReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Stores what is exported, in a thread: SQLite blocks."""

    def __init__(self, store: SpanStore) -> None:
        self._store = store
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spans")

    async def Export(
        self,
        request: trace_service_pb2.ExportTraceServiceRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """OTLP's only method."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self._write, request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def close(self) -> None:
        """Finishes what was taken."""
        self._writer.shutdown(wait=True)
        self._store.close()

    def _write(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        self._store.add(
            span for resource in request.resource_spans for span in spans_of_resource(resource)
        )


def spans_of_resource(resource_spans: ResourceSpans) -> Iterator[Span]:
    """The spans of one process's export as rows."""
    resource = _attributes(resource_spans.resource.attributes)
    service = str(resource.get("service.name", ""))
    pid = resource.get("process.pid", 0)
    for scope in resource_spans.scope_spans:
        for span in scope.spans:
            yield Span(
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                name=span.name,
                service=service,
                pid=pid if isinstance(pid, int) else 0,
                start_ns=span.start_time_unix_nano,
                end_ns=span.end_time_unix_nano,
                attributes=_attributes(span.attributes),
                links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
            )


def _attributes(pairs: "Iterable[KeyValue]") -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    if kind == "bytes_value":
        return value.bytes_value.hex()
    return getattr(value, kind)


async def serve(address: str, path: Path, capacity: int) -> int:
    """Runs until SIGTERM or SIGINT; exit code 1 when the address is taken."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    receiver = TraceReceiver(SpanStore(path, capacity))
    server = grpc.aio.server(
        maximum_concurrent_rpcs=PENDING,
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_EXPORT_BYTES),
        ),
    )
    register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # untyped
    register(receiver, server)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        print(f"spans: cannot listen on {address}: {error}", file=sys.stderr)
        return 1
    await server.start()
    print(f"spans: listening on {address}", flush=True)
    await stopping.wait()
    await server.stop(grace=2)
    receiver.close()
    return 0


def main() -> int:
    """Command line of the process that the supervisor starts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--listen", required=True, help="HOST:PORT")
    parser.add_argument("--file", required=True, type=Path)
    parser.add_argument("--capacity", type=int, default=DEFAULT_CAPACITY, help="spans kept")
    arguments = parser.parse_args()
    return engine.run(serve(arguments.listen, arguments.file, arguments.capacity))


if __name__ == "__main__":
    sys.exit(main())
