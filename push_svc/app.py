"""Composition root of push_svc: everything is opened here, and closed in reverse."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

import psycopg

from chatmesh import variables
from chatmesh.mesh.v1 import callers_pb2, push_pb2, push_pb2_grpc
from chatmesh.runtime import metrics, migrate
from chatmesh.runtime.callers import allowed_callers
from chatmesh.runtime.clock import SystemClock
from chatmesh.runtime.errors import StartupError, StoreRefused
from chatmesh.runtime.lifecycle import Lifecycle
from chatmesh.runtime.lifecycle import main as lifecycle_main
from chatmesh.runtime.logs import logger
from chatmesh.runtime.peers import Peer
from chatmesh.runtime.postgres import Database, Lane, LostConnection
from chatmesh.runtime.readiness import Component
from chatmesh.runtime.server import GrpcServer, mesh_server
from chatmesh.runtime.trace import Tracer, telemetry
from push_svc import measures
from push_svc.chat import ChatNodes
from push_svc.intake import Intake
from push_svc.offers import offered
from push_svc.pending import Parts, Pending
from push_svc.recorder import Recorder
from push_svc.senders import Senders
from push_svc.servicer import PushServicer
from push_svc.settings import PushSettings
from push_svc.store.jobs import IntakeStore, JobStore
from push_svc.store.records import RecordStore
from push_svc.store.tokens import TokenStore

SERVICE: Final = "push_svc"
ROLE: Final = migrate.role_of(SERVICE)
SWEEP_SECONDS: Final = 60.0
SCHEMA_SECONDS: Final = 1.0

_log = logger(__name__)


async def main() -> int:
    """Load the settings and serve until told to stop; the exit code."""
    return await lifecycle_main(PushSettings, serve, known=variables.NAMES)


async def serve(lifecycle: Lifecycle, settings: PushSettings) -> None:
    """Open PostgreSQL and the chat nodes' channel, start loops and listener, run.

    Raises StartupError when it cannot: bad URL, bad target, address taken.
    """
    async with AsyncExitStack() as stack:
        tracer = await stack.enter_async_context(telemetry(SERVICE, settings))
        database, intake_lane, claim_lane, finish_lane = await _open_stores(
            stack, lifecycle, settings
        )
        chat = await _open_chat(stack, lifecycle, settings)
        providers = offered(settings)
        _log.info("push providers", offered=sorted(one.name for one in providers.values()))
        clock = SystemClock()
        senders = Senders(providers, clock, timeout_seconds=settings.push_send_seconds)
        stack.push_async_callback(senders.close)
        tokens, records = TokenStore(database), RecordStore(database)
        recorder = Recorder(JobStore(finish_lane))
        pending = Pending(
            Parts(JobStore(claim_lane), tokens, records, recorder, chat, senders, clock, tracer),
            settings,
        )
        intake = Intake(IntakeStore(intake_lane), tracer, pending.on_jobs)
        servicer = PushServicer(intake, tokens, records, providers)
        fits = asyncio.Event()
        schema = lifecycle.readiness.require("schema push")
        lifecycle.background("schema", lambda: _check_schema(database, schema, fits))
        lifecycle.background("chat nodes", chat.watch)
        lifecycle.background("intake", intake.run)
        lifecycle.background("recorder", recorder.run)
        lifecycle.background("pending", lambda: _when_set(fits, pending))
        lifecycle.background("sweep", lambda: _sweep(records, settings.push_log_days))
        server = _server(lifecycle, settings, servicer, tracer)
        await server.start()
        await lifecycle.run((server,), drains=(servicer.streams.leave,))


async def _open_stores(
    stack: AsyncExitStack, lifecycle: Lifecycle, settings: PushSettings
) -> tuple[Database, Lane, Lane, Lane]:
    """A pool for tokens and records, and one lane each for jobs in, claims, and outcomes."""
    url, durable = settings.postgres_url.get_secret_value(), settings.postgres_durable
    try:
        database = Database(
            url,
            role_name=ROLE,
            readiness=lifecycle.readiness.require("postgres"),
            durable=durable,
        )
        lanes = [
            Lane(url, role_name=ROLE, name=name, durable=durable)
            for name in ("push intake", "push claims", "push outcomes")
        ]
    except ValueError as error:
        raise StartupError(f"CHATMESH_POSTGRES_URL: {error}") from None
    await stack.enter_async_context(database)
    for lane in lanes:
        await stack.enter_async_context(lane)
    intake, claims, outcomes = lanes
    return database, intake, claims, outcomes


async def _open_chat(
    stack: AsyncExitStack, lifecycle: Lifecycle, settings: PushSettings
) -> ChatNodes:
    """Without a chat node jobs are kept and go on being taken in: it is not critical."""
    up = lifecycle.readiness.require("chat nodes", critical=False)
    up.down("not connected yet")
    try:
        peer = Peer(settings.chat_target, settings, caller=SERVICE)
    except ValueError as error:
        raise StartupError(f"CHATMESH_CHAT_TARGET: {error}") from None
    stack.push_async_callback(peer.close)
    return ChatNodes(peer, up)


def _server(
    lifecycle: Lifecycle, settings: PushSettings, servicer: PushServicer, tracer: Tracer
) -> GrpcServer:
    callers: Mapping[str, frozenset[str]] = allowed_callers(
        push_pb2.DESCRIPTOR.services_by_name.values(), callers_pb2.callers
    )
    server = mesh_server(settings, lifecycle.readiness, callers=callers, tracer=tracer)
    server.add(push_pb2_grpc.add_PushServiceServicer_to_server, servicer)
    return server


async def _check_schema(database: Database, schema: Component, fits: asyncio.Event) -> None:
    """Serve only once the schema fits this code; it may be migrated after the start."""
    needs = migrate.code_version(SERVICE)
    while True:
        try:
            async with database.connection() as connection:
                await migrate.require_schema(connection, SERVICE, needs)
        except StoreRefused as error:
            schema.down(str(error))
        except (LostConnection, psycopg.Error) as error:
            if not schema.is_up:
                schema.down(f"not read yet: {type(error).__name__}")
        else:
            schema.up()
            fits.set()
        await asyncio.sleep(SCHEMA_SECONDS if not schema.is_up else SWEEP_SECONDS)


async def _when_set(fits: asyncio.Event, pending: Pending) -> None:
    """Claiming begins when the schema fits."""
    await fits.wait()
    await pending.run()


async def _sweep(records: RecordStore, keep_days: int) -> None:
    """Keep records and dead letters bounded."""
    waiting = metrics.gauge(measures.PUSH_PENDING)
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await records.sweep(keep_days)
            waiting.set(await records.count_jobs())
        except (LostConnection, StoreRefused, psycopg.Error) as error:
            _log.debug("not swept", error=str(error))
