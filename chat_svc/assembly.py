"""The parts of a chat node, put together along the path of a message.

Pure wiring: constructors and nothing else. What is opened here is closed by the exit stack in
reverse. Loops are started by `app`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from chat_svc.core.limits import Limits
from chat_svc.links import Links, open_links
from chat_svc.node.audience import Audience
from chat_svc.node.audit import AuditLog
from chat_svc.node.begin import needed_once
from chat_svc.node.commit_runner import BatchIds, CommitRunner
from chat_svc.node.committer import Committer
from chat_svc.node.counters import NodeCounters
from chat_svc.node.counts import Counts
from chat_svc.node.cursors import Cursors
from chat_svc.node.delivery import Comparison, Delivery
from chat_svc.node.farewell import Farewell
from chat_svc.node.fill import Fill
from chat_svc.node.handover import Handover
from chat_svc.node.hints import HintSigner, NodeAddress
from chat_svc.node.id_blocks import IdBlocks
from chat_svc.node.lease import NodeLease, Reaper
from chat_svc.node.neighbours import Neighbours
from chat_svc.node.node import ChatNode, NodeParts
from chat_svc.node.opening import Opening, OpeningParts
from chat_svc.node.outbox import Outbox
from chat_svc.node.presence import PresenceLink
from chat_svc.node.push import PushLink
from chat_svc.node.receipt_telling import ReceiptTelling
from chat_svc.node.receipts import Receipts
from chat_svc.node.resolver import Resolver
from chat_svc.node.search import SearchIndexing
from chat_svc.node.sessions import Sessions
from chat_svc.node.showing import Showing
from chat_svc.node.signals import Signals
from chat_svc.node.standing import Standing
from chat_svc.node.tasks import Tasks
from chat_svc.node.waiting_lane import WaitingLane
from chat_svc.node.watching import Watching
from chat_svc.settings import ChatSettings
from chat_svc.store.bundle import ROLE, ChatStore
from chat_svc.store.commit import CommitStore, commit_rules
from chatmesh.mesh.v1.sequencer_pb2 import NextIdsRequest, NextIdsResponse
from chatmesh.runtime.clock import Clock, SystemClock
from chatmesh.runtime.identity import TokenVerifier
from chatmesh.runtime.lifecycle import Lifecycle
from chatmesh.runtime.postgres import Database, Lane, StoreRoom
from chatmesh.runtime.readiness import Component
from chatmesh.runtime.streams import RequestStream
from chatmesh.runtime.trace import Tracer

LOCK_TIMEOUT_MS: Final = 250
"""A batch waits this long for locks; then its conversations go to the second lane."""
WAITING_LOCK_TIMEOUT_MS: Final = 100
POOL_LOCK_TIMEOUT_MS: Final = 5_000
"""Statements of the pools: what waits for a lock for ever keeps its connection for ever."""
IDS_IN_FLIGHT: Final = 256


@dataclass(frozen=True, slots=True)
class Ground:
    """What everything stands on."""

    settings: ChatSettings
    limits: Limits
    clock: Clock
    counters: NodeCounters
    tracer: Tracer
    address: NodeAddress
    signer: HintSigner
    lifecycle: Lifecycle
    database: Database
    lane: Lane
    waiting_lane: Lane
    store: ChatStore
    """The node's own: sessions, leases, and what messages need before their commit."""
    call_store: ChatStore
    """For unary calls, over a pool of their own: slow ones, or ones that wait for a lock, keep no
    message and no lease waiting."""
    links: Links
    postgres: Component
    room: StoreRoom


@dataclass(frozen=True, slots=True)
class Path:
    """From a frame that was read to the hints that leave."""

    sessions: Sessions
    id_stream: RequestStream[NextIdsRequest, NextIdsResponse]
    ids: IdBlocks
    outbox: Outbox
    resolver: Resolver
    handover: Handover
    lease: NodeLease
    waiting: WaitingLane
    committer: Committer
    search: SearchIndexing


@dataclass(frozen=True, slots=True)
class Sides:
    """What stands beside the path."""

    cursors: Cursors
    push: PushLink
    farewell: Farewell
    reaper: Reaper
    presence: PresenceLink
    showing: Showing
    audience: Audience
    watching: Watching
    signals: Signals
    receipts: Receipts
    counts: Counts
    fill: Fill
    delivery: Delivery
    comparison: Comparison
    neighbours: Neighbours
    standing: Standing
    audit: AuditLog
    tasks: Tasks


async def lay_ground(
    settings: ChatSettings, lifecycle: Lifecycle, tracer: Tracer, stack: AsyncExitStack
) -> Ground:
    """Stores and peers; nothing has to be there yet."""
    postgres = lifecycle.readiness.require("postgresql")
    room = StoreRoom(lifecycle.readiness.require("store room"))
    url = settings.postgres_url.get_secret_value() if settings.postgres_url else ""
    rules = commit_rules(settings.reach, settings.limits.max_reactions)
    database, call_database = [
        await stack.enter_async_context(
            Database(
                url,
                role_name=ROLE,
                min_size=min_size,
                max_size=settings.postgres_pool,
                readiness=component,
                durable=settings.postgres_durable,
                room=room,
                session_settings=(("lock_timeout", f"{POOL_LOCK_TIMEOUT_MS}ms"), *rules),
            )
        )
        for min_size, component in ((2, postgres), (1, None))
    ]
    lane, waiting_lane = [
        await stack.enter_async_context(
            Lane(
                url,
                role_name=ROLE,
                name=name,
                durable=settings.postgres_durable,
                room=room,
                session_settings=(("lock_timeout", f"{lock_timeout_ms}ms"), *rules),
            )
        )
        for name, lock_timeout_ms in (
            ("commit", LOCK_TIMEOUT_MS),
            ("waiting", WAITING_LOCK_TIMEOUT_MS),
        )
    ]
    return Ground(
        settings=settings,
        limits=settings.limits,
        clock=SystemClock(),
        counters=NodeCounters(),
        tracer=tracer,
        address=NodeAddress(settings.name),
        signer=HintSigner(settings.hint_digest_key),
        lifecycle=lifecycle,
        database=database,
        lane=lane,
        waiting_lane=waiting_lane,
        store=_store(settings, database, lane),
        call_store=_store(settings, call_database, lane),
        links=open_links(settings, stack),
        postgres=postgres,
        room=room,
    )


def build_path(ground: Ground) -> Path:
    """The parts that every message passes."""
    clock, counters, store = ground.clock, ground.counters, ground.store
    readiness = ground.lifecycle.readiness
    sessions = Sessions()
    id_stream: RequestStream[NextIdsRequest, NextIdsResponse] = RequestStream(
        ground.links.next_ids,
        name="sequencer",
        max_in_flight=IDS_IN_FLIGHT,
        readiness=needed_once(readiness, "sequencer"),
    )
    ids = IdBlocks(id_stream, clock, counters)
    outbox = Outbox(
        ground.links.enqueue,
        store.outbox,
        ground.address,
        clock,
        counters,
        ground.limits.outbox_rows,
        readiness.require("sync", critical=False),
    )
    resolver = Resolver(
        store.accounts,
        store.conversations,
        ids.new_ids,
        makes_unknown=ground.settings.makes_unknown_recipients,
        makes_contacts=ground.settings.reach == "tenant",
    )
    handover = Handover(
        sessions, outbox, ground.signer, resolver, ground.address, clock, counters, ground.tracer
    )
    lease = NodeLease(store.nodes, ground.address, clock)
    batch_ids = BatchIds(ground.address)
    second = CommitStore(ground.waiting_lane, edit_window_ms=_edit_window_ms(ground.settings))
    search = SearchIndexing(store.search, clock, counters)
    runner, waiting_runner = (
        CommitRunner(
            call,
            lane,
            ground.address,
            batch_ids,
            outbox,
            handover,
            clock,
            counters,
            ground.tracer,
            search.note,
        )
        for call, lane in ((store.commit, ground.lane), (second, ground.waiting_lane))
    )
    waiting = WaitingLane(waiting_runner, ids, clock)
    committer = Committer(
        runner,
        waiting,
        resolver,
        ids,
        outbox,
        handover,
        lease,
        clock,
        ground.tracer,
        ground.limits.commit_rows,
        lambda: ground.room.is_full,
    )
    return Path(
        sessions, id_stream, ids, outbox, resolver, handover, lease, waiting, committer, search
    )


def build_sides(ground: Ground, path: Path) -> Sides:
    """Everything that keeps sessions true."""
    clock, counters, store, links = ground.clock, ground.counters, ground.store, ground.links
    readiness, sessions = ground.lifecycle.readiness, path.sessions
    cursors = Cursors(store.devices, clock, counters)
    push = PushLink(
        links.push, links.cancel, readiness.require("push", critical=False), clock, counters
    )
    presence = PresenceLink(
        links.keep_alive,
        links.attach,
        store.presence,
        sessions,
        ground.address,
        needed_once(readiness, "presence"),
        clock,
    )
    signals = Signals(sessions, path.outbox, ground.signer, ground.address, clock, counters)
    comparison = Comparison(
        store.devices,
        sessions,
        clock,
        counters,
        lambda: presence.is_certain and path.outbox.stream.is_open,
    )
    presence.on_certain = comparison.all_soon
    showing = Showing(clock, counters, ground.limits.presence_per_second)
    watching = Watching(
        links.watch,
        ground.address,
        store.presence,
        store.accounts,
        store.conversations,
        path.resolver,
        sessions,
        showing,
        clock,
        counters,
        ground.limits.watched_contacts,
    )
    audience = Audience(store.presence, store.accounts, path.resolver, links.get_facts)
    signals.on_contacts = watching.refresh
    signals.on_privacy = watching.privacy_changed
    path.resolver.on_new_contacts = watching.refresh
    comparison.on_compared = watching.refresh  # contacts that changed on other nodes
    delivery = Delivery(
        sessions, path.outbox, signals, ground.signer, clock, counters, ground.tracer
    )
    fill = Fill(store.timeline, clock, counters)
    delivery.on_new_conversation = fill.on_new_conversation = watching.refresh
    return Sides(
        cursors=cursors,
        push=push,
        farewell=Farewell(store.devices, cursors, push, clock),
        reaper=Reaper(
            store.nodes, store.outbox, path.outbox, push, ground.address, path.lease, clock
        ),
        presence=presence,
        showing=showing,
        audience=audience,
        watching=watching,
        signals=signals,
        receipts=Receipts(
            store.receipts,
            store.conversations,
            receipt_telling(store, path.resolver, signals),
            audience,
            signals,
            clock,
            counters,
        ),
        counts=Counts(store.conversations, store.devices, clock),
        fill=fill,
        delivery=delivery,
        comparison=comparison,
        neighbours=Neighbours(links.connect),
        standing=Standing(store.users, store.devices, path.resolver, sessions, clock),
        audit=AuditLog(store.audit, clock, ground.settings.audit_keep_days),
        tasks=Tasks(),
    )


def receipt_telling(store: ChatStore, resolver: Resolver, signals: Signals) -> ReceiptTelling:
    """Who is told of marks; for sessions and for unary calls, each with a pool of its own."""
    return ReceiptTelling(store.receipts, store.conversations, store.devices, resolver, signals)


def build_node(ground: Ground, path: Path, sides: Sides, verifier: TokenVerifier) -> ChatNode:
    """The node that the sessions see."""
    opening = Opening(
        OpeningParts(
            address=ground.address,
            lease=path.lease,
            limits=ground.limits,
            devices=ground.store.devices,
            conversations=ground.store.conversations,
            resolver=path.resolver,
            sessions=path.sessions,
            presence=sides.presence,
            watching=sides.watching,
            neighbours=sides.neighbours,
            farewell=sides.farewell,
            resumed=sides.receipts.resumed,
            clock=ground.clock,
            counters=ground.counters,
        )
    )
    node = ChatNode(
        NodeParts(
            address=ground.address,
            limits=ground.limits,
            sessions=path.sessions,
            committer=path.committer,
            handover=path.handover,
            fill=sides.fill,
            cursors=sides.cursors,
            receipts=sides.receipts,
            counts=sides.counts,
            push=sides.push,
            presence=sides.presence,
            watching=sides.watching,
            farewell=sides.farewell,
            opening=opening,
            verifier=verifier,
            tasks=sides.tasks,
            clock=ground.clock,
            counters=ground.counters,
            tracer=ground.tracer,
            samples_all=ground.settings.trace_sample_ratio >= 1,
        )
    )
    sides.presence.on_superseded = node.superseded
    return node


def _store(settings: ChatSettings, database: Database, lane: Lane) -> ChatStore:
    return ChatStore.on(
        database,
        lane,
        edit_window_ms=_edit_window_ms(settings),
        search_language=settings.search_language,
    )


def _edit_window_ms(settings: ChatSettings) -> int:
    return settings.limit_edit_window_seconds * 1_000
