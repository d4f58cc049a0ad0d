"""The SDK over real gRPC streams, against the peer of `peer.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from chatmesh.client import (
    AuthenticationFailed,
    ChatmeshError,
    Client,
    Connected,
    DeviceRefused,
    Disconnected,
    Entry,
    InvalidRequest,
    Message,
    NotReachable,
    PreviousRefused,
    Sent,
    SessionReplaced,
    Text,
    Unavailable,
)
from chatmesh.runtime.faults import Fault
from chatmesh.testing import TcpProxy
from tests.client.peer import Peer


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with Peer() as running:
        yield running


def client(peer: Peer, user: str = "alice", **options: Any) -> Client:
    options.setdefault("device_id", "phone")
    options.setdefault("token", user)
    return Client(peer.address, **options)


async def take(entries: Any, count: int) -> list[Entry]:
    return [await anext(entries) for _ in range(count)]


def text(number: int, to_user: str = "bob") -> Message:
    return Message(Text(f"text {number}"), to_user=to_user)


# -- a conversation -------------------------------------------------------------------------------


async def test_a_message_reaches_the_other_and_the_own_timeline(peer: Peer) -> None:
    async with client(peer) as alice, client(peer, "bob") as bob:
        sent = await alice.send(to_user="bob", text="hello")
        assert (sent.conversation_seq, sent.timeline_seq, len(sent.key)) == (1, 1, 16)
        (own,) = await take(alice.entries(), 1)
        (entry,) = await take(bob.entries(), 1)
        assert (own.event.key, own.event.peer) == (sent.key, "bob")
        assert (entry.text, entry.event.sender, entry.event.peer) == ("hello", "alice", "alice")
        assert alice.session is not None
        assert (alice.user_id, alice.device_id, alice.is_connected) == ("alice", "phone", True)


async def test_hello_says_who_the_device_is(peer: Peer) -> None:
    async with client(peer, device_id="", start="head"):
        (hello,) = peer.sessions[0].received
        assert hello.hello.client_version.startswith("chatmesh-python/")
        assert not hello.hello.HasField("cursor")
        assert hello.hello.start == hello.hello.START_HEAD


async def test_an_entry_is_acked_when_the_next_is_asked_for(peer: Peer) -> None:
    peer.write("alice", 3)
    async with client(peer) as alice:
        entries = alice.entries()
        await take(entries, 2)
        await peer.until(lambda: peer.sessions[0].acked == 1)
        await take(entries, 1)
        await peer.until(lambda: peer.sessions[0].acked == 2)
    assert peer.sessions[0].acked == 2, "the third was never said to be stored"


async def test_manual_acks_are_cumulative(peer: Peer) -> None:
    peer.write("alice", 5)
    async with client(peer, ack="manual") as alice:
        taken = await take(alice.entries(), 5)
        assert peer.sessions[0].acked == 0
        taken[3].ack()
        await peer.until(lambda: peer.sessions[0].acked == 4)
        taken[1].ack()
    assert peer.sessions[0].acked == 4


async def test_refusals_are_typed(peer: Peer) -> None:
    async with client(peer) as alice:
        key = b"k" * 16
        peer.refuse.add(key)
        with pytest.raises(NotReachable) as refused:
            await alice.send(to_user="nobody", text="x", key=key)
        assert refused.value.advice == "show as undeliverable"
        with pytest.raises(ValueError, match="exactly one"):
            await alice.send(to_user="bob", text="x", content=Text("y"))
        with pytest.raises(ValueError, match="exactly one"):
            await alice.send(text="x")


async def test_many_messages_keep_their_order_and_stand_alone(peer: Peer) -> None:
    async with client(peer) as alice:
        bad = Message(Text("bad"), to_user="bob", key=b"b" * 16)
        assert bad.key is not None
        peer.refuse.add(bad.key)
        outcomes = await alice.send_many([text(1), text(2), bad, text(3)])
        assert [type(one) for one in outcomes] == [Sent, Sent, NotReachable, Sent]
        assert [one.timeline_seq for one in outcomes if isinstance(one, Sent)] == [1, 2, 3]
        bad = Message(Text("bad"), to_user="bob", key=b"c" * 16)
        assert bad.key is not None
        peer.refuse.add(bad.key)
        outcomes = await alice.send_many([text(4), bad, text(5)], stop_on_error=True)
        assert [type(one) for one in outcomes] == [Sent, NotReachable, PreviousRefused]
        with pytest.raises(InvalidRequest, match="one frame"):
            await alice.send_many([text(n) for n in range(6)], stop_on_error=True)


async def test_a_thousand_concurrent_sends_stay_in_order(peer: Peer) -> None:
    async with client(peer, max_unanswered=100) as alice:
        sends = [asyncio.create_task(alice.send(to_user="bob", text=f"{n}")) for n in range(1000)]
        reader = asyncio.create_task(take(alice.entries(), 1000))
        sent = [(await one).timeline_seq for one in sends]
        assert sent == list(range(1, 1001))
        assert [entry.text for entry in await reader] == [f"{n}" for n in range(1000)]
    frames = [one for one in peer.sessions[0].received if one.WhichOneof("kind") == "send"]
    assert len(frames) < 600, "what waits is joined"


async def test_later_is_tried_again_under_the_same_key(peer: Peer) -> None:
    async with client(peer) as alice:
        key = b"l" * 16
        peer.later.add(key)
        sending = asyncio.create_task(alice.send(to_user="bob", text="x", key=key))
        await peer.until(lambda: len(peer.sessions[0].received) >= 2)
        peer.later.clear()
        assert (await sending).key == key


# -- coming back ----------------------------------------------------------------------------------


async def test_a_lost_stream_is_resumed_without_gap_or_repeat(peer: Peer) -> None:
    peer.write("alice", 3)
    async with client(peer) as alice:
        events, entries = alice.events(), alice.entries()
        seen = await take(entries, 2)
        peer.sessions[0].break_(Fault(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "leaving"))
        second = await peer.session(1)
        peer.write("alice", 2)
        seen += await take(entries, 3)
        assert [entry.timeline_seq for entry in seen] == [1, 2, 3, 4, 5]
        cursor = second.received[0].hello.cursor
        assert (cursor.timeline_seq, cursor.message_id) == (
            1,
            peer.account("alice").timeline[0].message_id,
        )
        kinds = [type(await anext(events)) for _ in range(3)]
        assert kinds == [Connected, Disconnected, Connected]


async def test_unanswered_messages_go_again_first_and_once(peer: Peer) -> None:
    """The server committed, the answers were lost with the stream (reliability: U1)."""
    async with (
        TcpProxy(peer.address) as proxy,
        Client(proxy.address, token="alice", device_id="phone") as alice,
    ):
        await alice.send(to_user="bob", text="0")
        proxy.blackhole("down")
        sends = [asyncio.create_task(alice.send(to_user="bob", text=f"{n}")) for n in range(1, 4)]
        await peer.until(lambda: len(peer.account("bob").timeline) == 4)
        proxy.heal()
        late = asyncio.create_task(alice.send(to_user="bob", text="4"))
        answers = [await one for one in [*sends, late]]
        assert [one.timeline_seq for one in answers] == [2, 3, 4, 5]
    assert [event.content.text.body for event in peer.account("bob").timeline] == list("01234")


@pytest.mark.parametrize("reason", ["DRAINING", "CONNECTION_AGE", "REBALANCED"])
async def test_going_away_moves_without_losing_a_message(peer: Peer, reason: str) -> None:
    async with client(peer) as alice:
        advice = {"reconnect_after_ms": 50, "reason": f"REASON_{reason}"}
        peer.sessions[0].say(going_away=[advice])
        sends = [asyncio.create_task(alice.send(to_user="bob", text=f"{n}")) for n in range(50)]
        await peer.session(1)
        late = await alice.send(to_user="bob", text="late")
        assert [(await one).timeline_seq for one in sends] == list(range(1, 51))
        assert late.timeline_seq == 51
        assert peer.sessions[0].half_closed


async def test_a_closed_for_good_ends_everything(peer: Peer) -> None:
    async with client(peer) as alice:
        peer.answering.clear()
        sending = asyncio.create_task(alice.send(to_user="bob", text="x"))
        await peer.until(lambda: len(peer.sessions[0].received) == 2)
        peer.sessions[0].out.clear()
        peer.sessions[0].finish("REPLACED", "NEVER")
        peer.answering.set()
        with pytest.raises(SessionReplaced):
            await sending
        with pytest.raises(SessionReplaced):
            await alice.send(to_user="bob", text="y")
        with pytest.raises(SessionReplaced):
            await anext(alice.entries())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(grpc.StatusCode.PERMISSION_DENIED, "DEVICE_REFUSED", "signed out"), DeviceRefused),
        (Fault(grpc.StatusCode.INVALID_ARGUMENT, "BAD_DEVICE_ID", "bad"), InvalidRequest),
        (Fault(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", "no"), AuthenticationFailed),
    ],
)
async def test_a_refused_hello_is_raised_at_once(
    peer: Peer, fault: Fault, error: type[ChatmeshError]
) -> None:
    peer.fail_next = fault
    with pytest.raises(error):
        async with client(peer):
            pass


async def test_no_server_is_said_in_time_with_the_reason() -> None:
    with pytest.raises(Unavailable, match=r"no session at 127\.0\.0\.1:1 within"):
        async with Client("127.0.0.1:1", token="alice", connect_timeout_seconds=0.3):
            pass


async def test_a_second_target_is_tried(peer: Peer) -> None:
    async with Client(f"127.0.0.1:1,{peer.address}", token="alice") as alice:
        assert alice.is_connected


async def test_starting_offline_keeps_messages_until_there_is_a_server(peer: Peer) -> None:
    async with TcpProxy(peer.address) as proxy:
        proxy.refuse()
        async with Client(proxy.address, token="alice", connect_timeout_seconds=None) as alice:
            sending = asyncio.create_task(alice.send(to_user="bob", text="x"))
            await asyncio.sleep(0)
            proxy.heal()
            assert (await sending).timeline_seq == 1
