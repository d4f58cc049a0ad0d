"""PresenceService: check → convert → call → convert. Rules are in lease, merge and watch."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from chatmesh import errors
from chatmesh.mesh.v1 import presence_pb2 as pb
from chatmesh.mesh.v1 import presence_pb2_grpc
from chatmesh.runtime import faults, metrics, trace
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.leaving import OpenStreams
from chatmesh.runtime.trace import Tracer
from presence_svc import convert, measures
from presence_svc.lease import BeatJudge, Holding, LeaseTimes
from presence_svc.observer import STORE_ERRORS, Observer
from presence_svc.reaper import REAP_AT_ONCE, Reaper
from presence_svc.settings import PresenceSettings
from presence_svc.store.accounts import AccountStore
from presence_svc.store.nodes import NodeStore
from presence_svc.store.shards import StoreAway
from presence_svc.watch import Watches
from presence_svc.watcher import Watcher

MAX_FULL_SESSIONS = 1_000_000
"""Of one node; bounds the memory of a full attach."""


class PresenceServicer(presence_pb2_grpc.PresenceServiceServicer):
    """The RPCs; any replica serves any node."""

    def __init__(
        self,
        *,
        settings: PresenceSettings,
        nodes: NodeStore,
        accounts: AccountStore,
        watches: Watches,
        observer: Observer,
        reaper: Reaper,
        clock: Clock,
        tracer: Tracer,
    ) -> None:
        self._settings = settings
        self._times = LeaseTimes(settings.presence_lease_seconds)
        self._nodes = nodes
        self._accounts = accounts
        self._watches = watches
        self._observer = observer
        self._reaper = reaper
        self._clock = clock
        self._tracer = tracer
        self.streams = OpenStreams()
        self._reattaches = metrics.counter(measures.REATTACHES)
        self._sessions = metrics.counter(measures.SESSIONS)
        self._lookups = metrics.histogram(measures.LOOKUPS)

    async def KeepAlive(
        self, request_iterator: AsyncIterator[pb.KeepAliveRequest], context: Any
    ) -> AsyncIterator[pb.KeepAliveResponse]:
        """Leases. The stream's end is not the node's."""
        judge = BeatJudge()
        with self.streams.stream():
            async for request in request_iterator:
                node = convert.node_of(request.node)
                response = pb.KeepAliveResponse(request_id=request.request_id)
                async with _store():
                    if request.leaving:
                        await self._nodes.leave(node.node_id)
                        self._reaper.hurry()
                    else:
                        lease_was_live, stored = await self._nodes.beat(node)
                        response.lease_ms = self._times.granted_ms
                        response.reattach = judge.reattach(
                            lease_was_live=lease_was_live,
                            claimed=Holding(request.session_count, request.session_digest),
                            stored=stored,
                        )
                if response.reattach:
                    self._reattaches.inc()
                yield response

    async def Attach(
        self, request_iterator: AsyncIterator[pb.AttachRequest], context: Any
    ) -> AsyncIterator[pb.AttachResponse]:
        """Sessions in and out. A full attach is taken in as it comes, and at its end what the
        node did not name is taken away."""
        named: dict[tuple[int, str], int] = {}
        with self.streams.stream():
            async for request in request_iterator:
                attached = convert.attachments_of(request.attached)
                detached = convert.held_of(request.detached)
                wishes = convert.wishes_of(request.wishes)
                async with _store():
                    if not await self._nodes.has_lease(request.node_id):
                        raise errors.NODE_UNKNOWN(node_id=request.node_id)
                    now_ms = self._clock.wall_ms()
                    if wishes:  # first: nobody invisible is seen for a moment
                        await self._accounts.set_states(wishes, now_ms)
                    superseded = (
                        await self._accounts.attach(request.node_id, attached, now_ms)
                        if attached
                        else []
                    )
                    if detached:
                        await self._accounts.detach(request.node_id, detached, now_ms)
                    if request.full:
                        named |= {
                            (item.account_id, item.session.device_id): item.session.session_no
                            for item in attached
                        }
                        if len(named) > MAX_FULL_SESSIONS:
                            raise errors.LIMIT_EXCEEDED(
                                "too many sessions on one node",
                                limit="sessions",
                                value=MAX_FULL_SESSIONS,
                                size=len(named),
                            )
                    if request.full_done:
                        await self._take_away_others(request.node_id, named)
                        named = {}
                self._sessions.labels("attached").inc(len(attached) - len(superseded))
                self._sessions.labels("superseded").inc(len(superseded))
                self._sessions.labels("detached").inc(len(detached))
                yield pb.AttachResponse(
                    request_id=request.request_id, superseded=convert.superseded(superseded)
                )

    async def LookupSessions(
        self, request: pb.LookupSessionsRequest, context: Any
    ) -> pb.LookupSessionsResponse:
        """Where accounts are."""
        convert.check_lookup(request)
        started_ns = time.time_ns()
        async with _store():
            view = await self._accounts.read(request.account_ids)
        unknown = self._observer.take_in(view)
        response = convert.routes_of(request, view, unknown=unknown)
        self._lookups.observe(len(request.account_ids))
        if trace.is_sampled(request.trace_context):
            self._tracer.hop(
                "presence.lookup",
                request.trace_context,
                started_ns,
                time.time_ns(),
                {"accounts": len(request.account_ids), "unknown": unknown},
            )
        return response

    async def LookupSessionsStream(
        self, request_iterator: AsyncIterator[pb.LookupSessionsRequest], context: Any
    ) -> AsyncIterator[pb.LookupSessionsResponse]:
        """One answer per request, in order."""
        with self.streams.stream():
            async for request in request_iterator:
                yield await self.LookupSessions(request, context)

    async def Watch(
        self, request_iterator: AsyncIterator[pb.WatchRequest], context: Any
    ) -> AsyncIterator[pb.WatchResponse]:
        """Facts of accounts that a node is interested in."""
        watcher = Watcher(
            self._watches,
            self._observer,
            digest_seconds=self._settings.presence_digest_seconds,
            max_accounts=self._settings.presence_max_watched,
        )
        with self.streams.stream():
            async for response in watcher.serve(request_iterator):
                yield response

    async def GetFacts(self, request: pb.GetFactsRequest, context: Any) -> pb.GetFactsResponse:
        """Facts of some accounts now, in the order asked."""
        convert.check_lookup(request)
        async with _store():
            view = await self._accounts.read(request.account_ids)
        unknown = self._observer.take_in(view)
        return pb.GetFactsResponse(
            facts=[
                convert.fact_of(self._observer.notice(account_id, view, unknown))
                for account_id in request.account_ids
            ]
        )

    async def SetState(self, request: pb.SetStateRequest, context: Any) -> pb.SetStateResponse:
        """Lasting wishes of a user."""
        told = convert.wish_of(request)
        async with _store():
            await self._accounts.set_state(told, self._clock.wall_ms())
        return pb.SetStateResponse()

    async def Forget(self, request: pb.ForgetRequest, context: Any) -> pb.ForgetResponse:
        """Erased accounts."""
        accounts = convert.forgotten(request)
        async with _store():
            await self._accounts.forget(accounts)
        return pb.ForgetResponse()

    async def _take_away_others(self, node_id: int, named: dict[tuple[int, str], int]) -> None:
        others = [
            held
            for held in await self._nodes.held_by(node_id)
            if named.get((held.account_id, held.device_id)) != held.session_no
        ]
        for start in range(0, len(others), REAP_AT_ONCE):
            await self._accounts.detach(
                node_id, others[start : start + REAP_AT_ONCE], self._clock.wall_ms()
            )


@asynccontextmanager
async def _store() -> AsyncIterator[None]:
    """The store's trouble as a status: callers open their stream again and say it again."""
    try:
        yield
    except StoreAway:
        raise Fault(
            grpc.StatusCode.UNAVAILABLE,
            faults.NOT_SERVING,
            "not serving: missing redis",
            {"missing": "redis"},
            retry_after_seconds=1,
        ) from None
    except STORE_ERRORS as error:
        raise Fault(
            grpc.StatusCode.UNAVAILABLE,
            faults.NOT_SERVING,
            "not serving: redis refuses",
            {"missing": "redis"},
            retry_after_seconds=5,
        ) from error
