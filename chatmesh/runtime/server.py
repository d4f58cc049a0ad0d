"""One gRPC listener: address, certificates, limits, health, reflection, and the edge around all.

Role: `public_server` and `mesh_server` make the two kinds; `GrpcServer` is what they share.
Rules: a service is added through `add`, which wraps each of its handlers (interceptors.py); health
answers without identity; reflection is off on the public face unless a setting says otherwise.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_health.v1.health import aio as health_aio  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]
    reflection as grpc_reflection,
)
from grpc_reflection.v1alpha import (
    reflection_pb2_grpc,
)

from chatmesh.runtime.errors import AddressTaken, StartupError
from chatmesh.runtime.guards import CallerGuard, IdentityGuard, ReadinessGuard
from chatmesh.runtime.identity import TokenVerifier
from chatmesh.runtime.interceptors import Edge, Guard
from chatmesh.runtime.listener import MESH_LIMITS, PUBLIC_LIMITS, ListenerLimits, ServerTls
from chatmesh.runtime.logs import logger
from chatmesh.runtime.readiness import Readiness
from chatmesh.runtime.settings import ServerSettings
from chatmesh.runtime.settings_public import PublicServerSettings
from chatmesh.runtime.trace import Tracer

_log = logger(__name__)

HEALTH_SERVICE: Final[str] = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
OVERALL_HEALTH: Final = ""


_running: set[GrpcServer] = set()


async def stop_all_running() -> None:
    """Stop at once every server of this process: grpc.aio complains about those left behind."""
    while _running:
        await next(iter(_running)).stop(0)


class Face(enum.Enum):
    """Who a listener is for."""

    PUBLIC = "public"
    MESH = "mesh"


class GrpcServer:
    """One listener. Built and started inside the running event loop."""

    def __init__(
        self,
        *,
        face: Face,
        address: str,
        tls: ServerTls | None = None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        guards: Sequence[Guard] = (),
        limits: ListenerLimits | None = None,
        reflection: bool = False,
        readiness: Readiness | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.face = face
        self._address = address
        self._tls = tls
        self._interceptors = tuple(interceptors)
        self._limits = limits or (PUBLIC_LIMITS if face is Face.PUBLIC else MESH_LIMITS)
        self._reflection = reflection
        self._readiness = readiness
        self._edge = Edge(face.value, guards, tracer)
        # By service; a method's handler is wrapped already.
        self._handlers: dict[str, dict[str, Any]] = {}
        self._health = health_aio.HealthServicer()
        self._health_task: asyncio.Task[None] | None = None
        # Made in `start`: grpc.aio complains about a server that was made and never stopped.
        self._server: grpc.aio.Server | None = None

    def add(self, registrar: Callable[[Any, grpc.aio.Server], None], servicer: object) -> None:
        """Add a service by its generated `add_…Servicer_to_server`. Before `start` only."""
        self._register(registrar, servicer, guarded=True)

    def _register(
        self, registrar: Callable[[Any, Any], None], servicer: object, *, guarded: bool
    ) -> None:
        recorder = _Recorder()
        registrar(servicer, recorder)
        for service, handlers in recorder.services.items():
            self._handlers[service] = {
                name: self._edge.wrap(f"/{service}/{name}", handler, guarded=guarded)
                for name, handler in handlers.items()
            }

    async def start(self) -> str:
        """Listen and serve; the bound address (with its real port).

        Raises AddressTaken when another process listens there, StartupError when the address or
        a certificate cannot be used.
        """
        self._services = list(self._handlers)
        self._register(health_pb2_grpc.add_HealthServicer_to_server, self._health, guarded=False)
        if self._reflection:
            self._register(
                reflection_pb2_grpc.add_ServerReflectionServicer_to_server,
                grpc_reflection.aio.ReflectionServicer(
                    [*self._services, HEALTH_SERVICE, grpc_reflection.SERVICE_NAME]
                ),
                guarded=False,
            )
        credentials = self._tls.credentials() if self._tls else None
        await asyncio.to_thread(_refuse_live_unix_socket, self._address)
        server = self._make_server()
        try:
            if credentials is None:
                port = server.add_insecure_port(self._address)
            else:
                port = server.add_secure_port(self._address, credentials)
        except RuntimeError:
            await server.stop(None)
            raise _why_not(self._address) from None
        await server.start()
        self._server = server
        _running.add(self)
        if self._readiness is not None:
            self._readiness.on_change(self._schedule_health)
        await self._tell_health()
        bound = self._address
        if not bound.startswith("unix:"):
            bound = f"{bound.rpartition(':')[0]}:{port}"
        _log.info("listening", face=self.face.value, address=bound, tls=self._tls is not None)
        return bound

    def _make_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            interceptors=list(self._interceptors),
            options=self._limits.options(),
            maximum_concurrent_rpcs=self._limits.max_concurrent_rpcs,
        )
        for service, handlers in self._handlers.items():
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, handlers),)
            )
            server.add_registered_method_handlers(service, handlers)
        return server

    async def stop(self, grace_seconds: float) -> None:
        """Accept nothing new, let calls end for `grace_seconds`, then cancel the rest.

        Does nothing when the server is not running.
        """
        server, self._server = self._server, None
        if server is None:
            return
        _running.discard(self)
        self._edge.stopping = True
        if self._health_task is not None:
            self._health_task.cancel()
        await self._health.enter_graceful_shutdown()
        await server.stop(grace_seconds)

    def _schedule_health(self) -> None:
        if self._server is not None and (self._health_task is None or self._health_task.done()):
            self._health_task = asyncio.get_running_loop().create_task(self._tell_health())

    async def _tell_health(self) -> None:
        """Repeats until what it told is what is: readiness may change while it tells."""
        told: bool | None = None
        while told != (ready := self._readiness is None or self._readiness.is_ready):
            told = ready
            status = (
                health_pb2.HealthCheckResponse.SERVING
                if ready
                else health_pb2.HealthCheckResponse.NOT_SERVING
            )
            for service in (OVERALL_HEALTH, *self._services):
                await self._health.set(service, status)


class _Recorder:
    """Takes the place of a server while a generated registrar names its handlers."""

    def __init__(self) -> None:
        self.services: dict[str, Mapping[str, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[object]) -> None:
        """The same handlers come by name right after."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """One service's handlers by method name."""
        self.services[service] = handlers


def mesh_server(
    settings: ServerSettings,
    readiness: Readiness,
    *,
    callers: Mapping[str, frozenset[str]],
    tracer: Tracer | None = None,
    ungated: Collection[str] = (),
    limits: ListenerLimits = MESH_LIMITS,
) -> GrpcServer:
    """The mesh listener of a server.

    `callers` names who may call each method (`/package.Service/Method`), see
    `callers.allowed_callers`; what is not in it is closed. `ungated` methods are answered even
    while the server is not ready.
    """
    tls = None
    if settings.mesh_tls_cert and settings.mesh_tls_key:
        tls = ServerTls(settings.mesh_tls_cert, settings.mesh_tls_key, settings.mesh_tls_ca)
    return GrpcServer(
        face=Face.MESH,
        address=settings.mesh_listen,
        tls=tls,
        guards=(
            CallerGuard(callers, mutual_tls=tls is not None),
            ReadinessGuard(readiness, ungated),
        ),
        limits=limits,
        readiness=readiness,
        tracer=tracer,
    )


def public_server(
    settings: PublicServerSettings,
    readiness: Readiness,
    *,
    verifier: TokenVerifier,
    tracer: Tracer | None = None,
    ungated: Collection[str] = (),
    limits: ListenerLimits = PUBLIC_LIMITS,
) -> GrpcServer:
    """The public listener of a server: every call carries a bearer token."""
    tls = None
    if settings.public_tls_cert and settings.public_tls_key:
        tls = ServerTls(settings.public_tls_cert, settings.public_tls_key)
    return GrpcServer(
        face=Face.PUBLIC,
        address=settings.public_listen,
        tls=tls,
        guards=(IdentityGuard(verifier), ReadinessGuard(readiness, ungated)),
        limits=limits,
        reflection=settings.public_reflection,
        readiness=readiness,
        tracer=tracer,
    )


def _refuse_live_unix_socket(address: str) -> None:
    """gRPC removes an existing socket file before it binds, also that of a living server."""
    if not address.startswith("unix:"):
        return
    path = address.removeprefix("unix:")
    if not Path(path).exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError:
            return  # nobody answers: a file left behind
    raise AddressTaken(address)


def _why_not(address: str) -> StartupError:
    """gRPC says only that binding failed; binding once more says why."""
    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.strip("[]"), int(port)))
                probe.listen()
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return AddressTaken(address)
                return StartupError(f"cannot listen on {address}: {error.strerror}")
    return StartupError(f"cannot listen on {address}")
