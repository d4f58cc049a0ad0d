"""Composition root of chat_svc: parts (`assembly`), listeners, loops, and the way out.

The listeners are up before PostgreSQL is: the node says NOT_SERVING and what it waits for. `begin`
waits for the database, gives the node its id and starts the loops. How a node leaves is written in
`node.drain`; here it is only called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AsyncExitStack

from chat_svc.api.mesh import NodeServicer
from chat_svc.api.session import ChatServicer
from chat_svc.assembly import (
    Ground,
    Path,
    Sides,
    build_node,
    build_path,
    build_sides,
    lay_ground,
)
from chat_svc.links import CALLER
from chat_svc.node.begin import read_history, when_back
from chat_svc.node.drain import Drain
from chat_svc.node.node import ChatNode
from chat_svc.node.partitions import KeyPartitions
from chat_svc.node.rebalance import Rebalance
from chat_svc.node.retention import Retention
from chat_svc.node.unary import UnarySends
from chat_svc.settings import ChatSettings
from chat_svc.store.bundle import SERVICE
from chat_svc.unary_services import add_unary_services, snapshots
from chatmesh.mesh.v1 import callers_pb2, node_pb2, node_pb2_grpc
from chatmesh.runtime import migrate
from chatmesh.runtime.callers import allowed_callers
from chatmesh.runtime.identity import TokenVerifier
from chatmesh.runtime.lifecycle import Lifecycle
from chatmesh.runtime.listener import PUBLIC_LIMITS
from chatmesh.runtime.server import GrpcServer, mesh_server, public_server
from chatmesh.runtime.trace import telemetry
from chatmesh.v1 import session_pb2_grpc


async def app(lifecycle: Lifecycle, settings: ChatSettings) -> None:
    """Serve until told to stop.

    Raises:
        StartupError: an address is taken, or a target or certificate cannot be used.
    """
    async with AsyncExitStack() as stack:
        tracer = await stack.enter_async_context(telemetry(CALLER, settings))
        ground = await lay_ground(settings, lifecycle, tracer, stack)
        path = build_path(ground)
        sides = build_sides(ground, path)
        stack.push_async_callback(sides.neighbours.close)
        stack.push_async_callback(sides.tasks.close)
        verifier = TokenVerifier(settings.token_issuers(), ground.clock)
        node = build_node(ground, path, sides, verifier)
        servicer = NodeServicer(
            node,
            sides.delivery,
            sides.comparison,
            ground.store.devices,
            ground.store.push_state,
            sides.standing,
        )
        verifier.on_refused = path.resolver.on_refused = sides.audit.refused
        drain = _drain(ground, path, sides, node, servicer)
        public, mesh = _listeners(ground, path, sides, node, servicer, verifier)
        add_unary_services(public, ground, path, sides, node)
        ground.address.target = settings.target_at(await mesh.start())
        _run_links(lifecycle, path, sides)
        lifecycle.background("store room", lambda: ground.room.watch(ground.database))
        begun = lifecycle.readiness.require("node")
        schema = lifecycle.readiness.require("schema")

        async def begin() -> None:
            await read_history(lambda: _history(ground), ground.signer, schema, ground.clock)
            await path.lease.start()
            _run_loops(ground, path, sides, node)
            begun.up()

        sides.tasks.start(begin(), "begin")
        await public.start()
        await lifecycle.run([public, mesh], [drain.run])


def _drain(
    ground: Ground, path: Path, sides: Sides, node: ChatNode, servicer: NodeServicer
) -> Drain:
    drain = Drain(
        node,
        path.committer,
        sides.farewell,
        sides.presence,
        path.lease,
        servicer,
        ground.clock,
        ground.settings.shutdown_grace_seconds,
    )

    def lease_lost() -> None:
        drain.is_dead = True
        ground.lifecycle.failed = True
        ground.lifecycle.stop("another node has taken this node's lease")

    path.lease.on_lost = lease_lost
    return drain


def _listeners(
    ground: Ground,
    path: Path,
    sides: Sides,
    node: ChatNode,
    servicer: NodeServicer,
    verifier: TokenVerifier,
) -> tuple[GrpcServer, GrpcServer]:
    settings = ground.settings
    readiness = ground.lifecycle.readiness
    public = public_server(
        settings,
        readiness,
        verifier=verifier,
        tracer=ground.tracer,
        limits=dataclasses.replace(PUBLIC_LIMITS, max_receive_bytes=ground.limits.max_frame_bytes),
    )
    public.add(
        session_pb2_grpc.add_ChatServiceServicer_to_server,
        ChatServicer(
            node,
            UnarySends(path.committer, node.trace_of),
            ground.call_store.timeline,
            path.resolver,
            snapshots(ground),
            sides.audit.record,
        ),
    )
    mesh = mesh_server(settings, readiness, callers=_callers(), tracer=ground.tracer)
    mesh.add(node_pb2_grpc.add_ChatNodeServiceServicer_to_server, servicer)
    return public, mesh


def _run_links(lifecycle: Lifecycle, path: Path, sides: Sides) -> None:
    """Streams that need no node id."""
    lifecycle.background("sequencer stream", path.id_stream.run)
    lifecycle.background("ids", path.ids.run)
    lifecycle.background("enqueue stream", path.outbox.stream.run)
    lifecycle.background("push stream", sides.push.push_stream.run)
    lifecycle.background("push cancel stream", sides.push.cancel_stream.run)
    lifecycle.background("presence lease stream", sides.presence.keep_alive.run)


def _run_loops(ground: Ground, path: Path, sides: Sides, node: ChatNode) -> None:
    """Everything that acts in the node's name."""
    lifecycle = ground.lifecycle
    lifecycle.background("lease", path.lease.run)
    lifecycle.background("presence lease", sides.presence.beat)
    lifecycle.background("presence routes stream", sides.presence.attach_stream.run)
    lifecycle.background("presence routes", sides.presence.run_routes)
    lifecycle.background("presence wishes", sides.presence.run_wishes)
    lifecycle.background("presence watch stream", sides.watching.stream.run)
    lifecycle.background("watching", sides.watching.run)
    lifecycle.background("presence shown", sides.showing.run)
    lifecycle.background("commit", path.committer.run)
    lifecycle.background("waiting lane", path.waiting.run)
    lifecycle.background("outbox resend", path.outbox.resend)
    lifecycle.background("outbox done", path.outbox.flush_done)
    lifecycle.background("cursors", sides.cursors.run)
    lifecycle.background("receipts", sides.receipts.run)
    lifecycle.background("counts", sides.counts.run)
    lifecycle.background("push handovers", sides.push.run_handovers)
    lifecycle.background("push voids", sides.push.run_voids)
    lifecycle.background("farewell", sides.farewell.run)
    partitions = KeyPartitions(ground.store.nodes.roll_key_partitions, ground.clock)
    lifecycle.background("key partitions", partitions.run)
    retention = Retention(ground.store.retention, ground.limits, ground.clock)
    lifecycle.background("retention", retention.run)
    lifecycle.background("expiry", retention.run_expiry)
    lifecycle.background("search index", path.search.run)
    lifecycle.background("search sweep", path.search.run_sweep)
    lifecycle.background("reaper", sides.reaper.run)
    lifecycle.background("comparison", sides.comparison.run)
    lifecycle.background("neighbours", sides.neighbours.run)
    lifecycle.background("standing", sides.standing.run)
    lifecycle.background("audit", sides.audit.run)
    lifecycle.background("refused tokens", sides.audit.run_refused)
    lifecycle.background("audit retention", sides.audit.run_trim)
    lifecycle.background("sweep", node.sweep)
    rebalance = Rebalance(
        ground.store.nodes,
        ground.address,
        path.sessions,
        ground.clock,
        min_age_seconds=ground.settings.rebalance_age_seconds,
        is_leaving=lifecycle.stopping.is_set,
    )
    lifecycle.background("rebalance", rebalance.run)
    for number in range(1, ground.settings.fill_readers + 1):
        lifecycle.background(f"fill {number}", sides.fill.run)

    # A new connection may lead to a database that was rewound: compare what was sent.
    def database_is_back() -> None:
        path.resolver.forget()
        sides.comparison.history_soon()

    when_back(lifecycle.readiness, ground.postgres, database_is_back)


async def _history(ground: Ground) -> bytes:
    """Check the schema; the database's history id."""
    async with ground.database.connection() as connection:
        await migrate.require_schema(connection, SERVICE, migrate.code_version(SERVICE))
        cursor = await connection.execute("SELECT id FROM chat.history")
        row = await cursor.fetchone()
    if row is None:
        raise LookupError("the database has no history id")
    history: bytes = row[0].bytes
    return history


def _callers() -> Mapping[str, frozenset[str]]:
    return allowed_callers(
        [node_pb2.DESCRIPTOR.services_by_name["ChatNodeService"]], callers_pb2.callers
    )
