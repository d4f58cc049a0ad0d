"""The port of an orchestrator's probes: grpc.health.v1 in plain text, and nothing else.

Role: the kubelet's gRPC probes present no certificate, so they cannot ask the mesh listener. Three
names of services, each another question:

    startup     SERVING once the listeners are up (nothing is asked of stores or peers)
    liveness    SERVING as long as the event loop answers: NOT_SERVING does not exist, only silence
    readiness   SERVING while nothing critical is missing, as /readyz says with its reasons

Rules: holds no secret and takes no other call; its answers come from the event loop that serves,
so that a loop that hangs is seen. It outlives the other listeners: a drain is no failed probe.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from chatmesh.runtime.errors import AddressTaken, StartupError
from chatmesh.runtime.readiness import Readiness

STARTUP: Final = "startup"
LIVENESS: Final = "liveness"
READINESS: Final = "readiness"
NAMES: Final = (STARTUP, LIVENESS, READINESS)
MAX_CALLS: Final = 32
"""Probes are one call at a time; the port is not a door for floods."""
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class ProbeServer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # no types
    """Serves from `start` to `stop`, inside the running event loop."""

    def __init__(self, address: str, readiness: Readiness, started: asyncio.Event) -> None:
        """`started` is set when all listeners of the server are up."""
        self._address = address
        self._readiness = readiness
        self._started = started
        self._server: grpc.aio.Server | None = None

    async def start(self) -> str:
        """Listen; the bound address. Raises AddressTaken, StartupError."""
        server = grpc.aio.server(
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 4096)],
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self, server)
        try:
            port = server.add_insecure_port(self._address)
        except RuntimeError:
            await server.stop(None)
            raise AddressTaken(self._address) from None
        if port == 0 and not self._address.startswith("unix:"):
            await server.stop(None)
            raise StartupError(f"cannot listen on {self._address}")
        await server.start()
        self._server = server
        return f"{self._address.rpartition(':')[0]}:{port}"

    async def stop(self) -> None:
        """Answer no more."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def Check(self, request: Any, context: Any) -> Any:
        """One probe. NOT_FOUND for a name that is none of the three; empty means readiness."""
        is_good = {
            "": self._readiness.is_ready,
            READINESS: self._readiness.is_ready,
            STARTUP: self._started.is_set(),
            LIVENESS: True,
        }.get(request.service)
        if is_good is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no probe {request.service!r}")
        return health_pb2.HealthCheckResponse(status=_SERVING if is_good else _NOT_SERVING)
