"""Real processes: routes and leases, fences over replicas, bad input, settings, stops."""

from __future__ import annotations

import asyncio
import signal

import grpc
import pytest

from chatmesh.mesh.v1 import presence_pb2 as pb
from tests.presence.mesh import Caller, ChatNode, Refused
from tests.presence.replicas import ALICE, BOB, CAROL, OFFLINE, A, B, Start, settled
from tests.runtime import stores


async def test_attach_needs_a_lease(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node = ChatNode(presence, A)
    with pytest.raises(Refused, match="no lease") as refused:
        await node.attach((ALICE, "phone", 1))
    assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert (await node.beat()).lease_ms > 0


async def test_fencing_over_replicas(start: Start, store: stores.Store) -> None:
    """The device moved from A to B; what A says late, over another replica, changes nothing."""
    first, second = start(store.url), start(store.url)
    await settled(first, store)
    await settled(second, store)
    old, new = ChatNode(first, A), ChatNode(second, B)
    sync = Caller(first, "sync_svc")
    await old.beat()
    await new.beat()
    await old.attach((ALICE, "phone", 1))
    await new.attach((ALICE, "phone", 2))
    assert await old.attach((ALICE, "phone", 1)) == [(ALICE, "phone", 1)]
    await old.detach((ALICE, "phone", 1))
    assert await sync.routes(ALICE) == [(B, "phone", 2)]
    await new.detach((ALICE, "phone", 2))
    assert await new.attach((ALICE, "phone", 2)) == [(ALICE, "phone", 2)], "it has ended"
    assert await sync.routes(ALICE) == []
    assert not (await old.beat()).reattach
    assert not (await new.beat()).reattach


async def test_a_node_that_nobody_told_learns_that_a_device_moved(
    start: Start, store: stores.Store
) -> None:
    presence = start(store.url)
    await settled(presence, store)
    old, new = ChatNode(presence, A), ChatNode(presence, B)
    await old.beat()
    await new.beat()
    await old.attach((ALICE, "phone", 1), (BOB, "phone", 1))
    await new.attach((ALICE, "phone", 2))
    assert not (await old.beat()).reattach, "it may be ending the session just now"
    assert (await old.beat()).reattach
    assert await old.attach_all() == [(ALICE, "phone", 1)]
    assert not (await old.beat()).reattach
    assert not (await new.beat()).reattach


async def test_a_full_attach_replaces_what_was_known(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node, sync = ChatNode(presence, A), Caller(presence, "sync_svc")
    await node.beat()
    await node.attach((ALICE, "phone", 1), (BOB, "phone", 1))
    del node.sessions[ALICE, "phone"]  # the detach was lost
    node.sessions[CAROL, "phone"] = 7  # so was this attach
    assert not (await node.beat()).reattach
    assert (await node.beat()).reattach
    await node.attach_all()
    assert not (await node.beat()).reattach
    assert await sync.routes(ALICE) == []
    assert await sync.routes(CAROL) == [(A, "phone", 7)]


async def test_a_leaving_node_is_gone_at_once(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node, sync = ChatNode(presence, A), Caller(presence, "sync_svc")
    await node.beat()
    await node.attach((ALICE, "phone", 1))
    assert await sync.routes(ALICE) == [(A, "phone", 1)]
    await node.beat(leaving=True)
    assert await sync.routes(ALICE) == []


async def test_bad_input_ends_its_own_stream_only(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    good, bad = ChatNode(presence, A), ChatNode(presence, B)
    await good.beat()
    await bad.beat()
    await good.attach((ALICE, "phone", 1))
    for session in (
        (0, "phone", 1),
        (1 << 63, "phone", 1),
        (ALICE, "", 1),
        (ALICE, "a b", 1),
        (ALICE, "x" * 65, 1),
        (ALICE, "phone", 0),
        (ALICE, "phone", 1 << 53),
    ):
        with pytest.raises(Refused) as refused:
            await bad.attach(session)
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT, session
    sync = Caller(presence, "sync_svc")
    with pytest.raises(grpc.aio.AioRpcError) as too_many:
        await sync.lookup(*range(1, 10_002))
    assert too_many.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.aio.AioRpcError) as denied:
        await Caller(presence, "push_svc").stub.SetState(
            pb.SetStateRequest(account_id=ALICE), metadata=sync.metadata
        )
    assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
    stranger = ChatNode(presence, A)
    stranger.metadata = Caller(presence, "cli").metadata
    with pytest.raises(Refused) as no_node:
        await stranger.attach((ALICE, "phone", 2))
    assert no_node.value.code is grpc.StatusCode.PERMISSION_DENIED
    forged = ChatNode(presence, 33)
    with pytest.raises(Refused, match="no lease"):
        await forged.attach((ALICE, "phone", 2))
    assert await sync.routes(ALICE) == [(A, "phone", 1)]
    await good.attach((BOB, "phone", 1))


async def test_lookups_by_stream_are_answered_in_order(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node, sync = ChatNode(presence, A), Caller(presence, "sync_svc")
    await node.beat()
    await node.attach(*((account, "phone", 1) for account in range(1, 2_001)))
    call = sync.stub.LookupSessionsStream(metadata=sync.metadata)
    for number in range(1, 6):
        await call.write(
            pb.LookupSessionsRequest(request_id=number, account_ids=range(number, 2_001, number))
        )
    for number in range(1, 6):
        answer = await call.read()
        assert isinstance(answer, pb.LookupSessionsResponse)
        assert answer.request_id == number
        assert [one.account_id for one in answer.accounts] == list(range(number, 2_001, number))
        assert all(one.routes for one in answer.accounts)
    call.cancel()


async def test_a_replica_dies_and_nothing_is_lost(start: Start, store: stores.Store) -> None:
    first, second = start(store.url), start(store.url)
    await settled(first, store)
    await settled(second, store)
    node = ChatNode(first, A)
    await node.beat()
    await node.attach((ALICE, "phone", 1))
    first.kill()
    moved = ChatNode(second, A)
    moved.sessions = node.sessions
    assert not (await moved.beat()).reattach, "no replica owns a node"
    assert await Caller(second, "sync_svc").routes(ALICE) == [(A, "phone", 1)]


async def test_stops_cleanly(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node = ChatNode(presence, A)
    watch = node.watch()
    await watch.add(ALICE)
    await watch.wait_for(ALICE, OFFLINE)
    presence.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0)
    watch.cancel()
    assert await asyncio.to_thread(presence.process.wait, 60) == 0
    assert "Traceback" not in presence.log()


def test_bad_settings_are_told(start: Start) -> None:
    presence = start("", presence_lease_seconds="3")
    assert presence.process.wait(60) == 2
    log = presence.log()
    assert "CHATMESH_REDIS_URL" in log
    assert "at least 8.5 s" in log
