"""Composition root of sync_svc.

What it needs at the start: Redis, presence, push. One that was there once may go away again: the
queue, the memory and the outboxes bridge it, and a server that still takes batches should.

The stop, beside the listener's: Enqueue streams are told to leave, what they brought is queued, the
last read ends, all that was read is settled, `done` is written; then loops and links end.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from chatmesh.mesh.v1 import (
    callers_pb2,
    presence_pb2_grpc,
    push_pb2_grpc,
    sync_pb2,
    sync_pb2_grpc,
)
from chatmesh.runtime import redis
from chatmesh.runtime.callers import allowed_callers
from chatmesh.runtime.clock import SystemClock
from chatmesh.runtime.errors import StartupError
from chatmesh.runtime.lifecycle import Lifecycle
from chatmesh.runtime.peers import Peer
from chatmesh.runtime.readiness import Component, Readiness
from chatmesh.runtime.server import mesh_server
from chatmesh.runtime.trace import Tracer, telemetry
from sync_svc.inbox import Inbox
from sync_svc.intake import Intake
from sync_svc.lag import LagWatch
from sync_svc.links import CALLER, Links
from sync_svc.plan import Ledger
from sync_svc.pushes import DeadLetters, Pushes
from sync_svc.queue import Queue
from sync_svc.reader import Reader
from sync_svc.routes import RouteBook
from sync_svc.servicer import SyncServicer
from sync_svc.settings import MIB, SyncSettings
from sync_svc.worker import Worker

_STATUS = "/chatmesh.mesh.v1.SyncService/GetQueueStatus"


@dataclass(frozen=True, slots=True)
class Parts:
    """What one replica is made of."""

    client: redis.Client
    redis_up: Component
    routes: RouteBook
    worker: Worker
    links: Links
    pushes: Pushes
    letters: DeadLetters
    intake: Intake
    readers: tuple[Reader, ...]
    lag: LagWatch
    servicer: SyncServicer


async def app(lifecycle: Lifecycle, settings: SyncSettings) -> None:
    """Serve until told to stop. Raises StartupError when a URL or target cannot be used."""
    async with AsyncExitStack() as stack:
        tracer = await stack.enter_async_context(telemetry(CALLER, settings))
        parts = build(settings, lifecycle.readiness, tracer, stack)
        server = mesh_server(
            settings,
            lifecycle.readiness,
            callers=allowed_callers(
                sync_pb2.DESCRIPTOR.services_by_name.values(), callers_pb2.callers
            ),
            tracer=tracer,
            ungated=(_STATUS,),
        )
        server.add(sync_pb2_grpc.add_SyncServiceServicer_to_server, parts.servicer)
        await server.start()
        run_loops(lifecycle, parts)
        await lifecycle.run([server], [lambda: drain(parts)])


def build(
    settings: SyncSettings, readiness: Readiness, tracer: Tracer, stack: AsyncExitStack
) -> Parts:
    """Make all parts; what they open is closed by `stack`. Raises StartupError."""
    clock = SystemClock()
    redis_up, presence_up, push_up = (
        readiness.require(name) for name in ("redis", "presence", "push")
    )
    _needed_once(readiness, redis_up, presence_up, push_up)
    queue, client = _queue(settings, redis_up, stack)
    presence, push = _stubs(settings, stack)
    memory_bytes = settings.sync_memory_mib * MIB
    inbox = Inbox(memory_bytes // 4)
    routes = RouteBook(
        presence.LookupSessionsStream,
        cache_ms=settings.sync_route_cache_ms,
        clock=clock,
        readiness=presence_up,
    )
    worker = Worker(
        inbox,
        Ledger(memory_bytes - memory_bytes // 4),
        routes,
        clock,
        tracer,
        unknown_retry_seconds=settings.sync_unknown_retry_seconds,
        settle_seconds=settings.sync_settle_seconds,
    )
    links = _links(settings, worker, stack)
    pushes = Pushes(
        push.Push,
        readiness=push_up,
        on_settled=worker.on_pushed,
        on_refused=worker.on_push_refused,
        clock=clock,
    )
    letters = DeadLetters(push.PutDeadLetters, clock)
    worker.attach(links, pushes, letters)
    intake = Intake(queue, inbox, redis_up, clock, tracer)
    readers = [Reader(queue, keys, inbox, letters, redis_up, clock) for keys in queue.readers()]
    lag = LagWatch(queue, worker.lag_ms, redis_up, clock)
    return Parts(
        client,
        redis_up,
        routes,
        worker,
        links,
        pushes,
        letters,
        intake,
        tuple(readers),
        lag,
        SyncServicer(intake, lag, lambda: worker.open_batches),
    )


def run_loops(lifecycle: Lifecycle, parts: Parts) -> None:
    """Start all background loops."""
    lifecycle.background("redis", lambda: redis.watch(parts.client, parts.redis_up))
    lifecycle.background("presence", parts.routes.stream.run)
    lifecycle.background("push", parts.pushes.stream.run)
    lifecycle.background("pushes", parts.pushes.run)
    lifecycle.background("dead letters", parts.letters.run)
    lifecycle.background("links", parts.links.run)
    lifecycle.background("worker", parts.worker.run)
    lifecycle.background("forget", parts.worker.forget_old)
    lifecycle.background("intake", parts.intake.run)
    lifecycle.background("lag", parts.lag.run)
    for number, reader in enumerate(parts.readers):
        lifecycle.background(f"reader {number}", reader.run)


async def drain(parts: Parts) -> None:
    """Take nothing new, settle what was taken."""
    await parts.servicer.leave()
    await parts.intake.flush()
    for reader in parts.readers:
        reader.stop()
    for reader in parts.readers:
        await reader.ended()
    await parts.worker.drain()
    await parts.letters.flush()
    await parts.links.flush()


def _queue(
    settings: SyncSettings, redis_up: Component, stack: AsyncExitStack
) -> tuple[Queue, redis.Client]:
    url = settings.redis_url.get_secret_value() if settings.redis_url is not None else ""
    try:
        client = redis.client(url, readiness=redis_up)
        blocking = redis.blocking_client(url)
    except ValueError as error:
        raise StartupError(f"CHATMESH_REDIS_URL: {error}") from None
    stack.push_async_callback(client.aclose)
    stack.push_async_callback(blocking.aclose)
    queue = Queue(
        client,
        blocking,
        streams=settings.sync_streams,
        stream_entries=settings.sync_stream_entries,
    )
    return queue, client


def _stubs(settings: SyncSettings, stack: AsyncExitStack) -> tuple[Any, Any]:
    """Of presence and push."""
    presence, push = (
        _peer(target, settings, stack).channel
        for target in (settings.presence_target, settings.push_target)
    )
    return (
        presence_pb2_grpc.PresenceServiceStub(presence),
        push_pb2_grpc.PushServiceStub(push),
    )


def _links(settings: SyncSettings, worker: Worker, stack: AsyncExitStack) -> Links:
    links = Links(
        settings,
        answer_seconds=settings.sync_answer_seconds,
        on_answer=worker.on_answer,
        on_no_answer=worker.on_no_answer,
    )
    stack.push_async_callback(links.close)
    return links


def _peer(target: str, settings: SyncSettings, stack: AsyncExitStack) -> Peer:
    try:
        peer = Peer(target, settings, caller=CALLER)
    except ValueError as error:
        raise StartupError(f"a target cannot be used: {error}") from None
    stack.push_async_callback(peer.close)
    return peer


def _needed_once(readiness: Readiness, *components: Component) -> None:
    """Let each count as missing only until it was there once."""

    def look() -> None:
        for component in components:
            if component.is_up:
                component.critical = False

    readiness.on_change(look)
