"""The SDK over real gRPC streams, against the peer of `peer.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from chatmesh.client import (
    AuthenticationFailed,
    ChatmeshError,
    Client,
    ClientClosed,
    Connected,
    Cursor,
    DeviceRefused,
    Disconnected,
    Entry,
    InvalidRequest,
    MemoryStore,
    Message,
    NotReachable,
    PreviousRefused,
    SendSettled,
    Sent,
    SessionReplaced,
    Snapshot,
    SnapshotTaken,
    SqliteStore,
    StoreFailed,
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


async def test_going_away_moves_without_losing_a_message(peer: Peer) -> None:
    async with client(peer) as alice:
        peer.sessions[0].say(going_away=[{"reconnect_after_ms": 50}])
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


# -- tokens ---------------------------------------------------------------------------------------


class Provider:
    """Gives alice.1, alice.2, …"""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> str:
        self.count += 1
        return f"alice.{self.count}"


async def test_an_expired_token_is_fetched_anew(peer: Peer) -> None:
    peer.refused_tokens.add("alice.1")
    async with client(peer, token=Provider()):
        assert peer.tokens == ["alice.1", "alice.2"]
        peer.sessions[0].finish("TOKEN_EXPIRED", "NOW")
        await peer.session(1)
        assert peer.tokens[-1] == "alice.3"


async def test_a_fixed_token_that_expires_ends_the_client(peer: Peer) -> None:
    async with client(peer) as alice:
        peer.sessions[0].finish("TOKEN_EXPIRED", "NOW")
        with pytest.raises(AuthenticationFailed):
            await anext(alice.entries())


async def test_a_failing_provider_is_tried_again(peer: Peer) -> None:
    provide, calls = Provider(), 0

    async def flaky() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("the identity provider is away")
        return await provide()

    async with client(peer, token=flaky) as alice:
        assert alice.is_connected


async def test_unary_calls_renew_and_repeat(peer: Peer) -> None:
    async with client(peer, token=Provider()) as alice:
        peer.refused_tokens.add("alice.1")
        away = Fault(grpc.StatusCode.UNAVAILABLE, "NOT_SERVING", "wait")
        peer.unary_failures += [away, away]
        page = await alice.conversations()
        assert [one.conversation_id for one in page.conversations] == [1]
        assert peer.tokens[-1] == "alice.2"
        peer.unary_failures.append(
            Fault(grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID", "other")
        )
        with pytest.raises(InvalidRequest):
            await alice.conversations(page_token="x")


# -- stores ---------------------------------------------------------------------------------------


async def test_a_restart_resumes_and_sends_what_was_unanswered(peer: Peer, tmp_path: Path) -> None:
    peer.write("alice", 3)
    async with client(peer, store=SqliteStore(tmp_path / "a.db"), close_timeout_seconds=0) as alice:
        entries = alice.entries()
        await take(entries, 2)
        await peer.until(lambda: peer.sessions[0].acked == 1)
        peer.answering.clear()
        sending = asyncio.create_task(alice.send(to_user="bob", text="x"))
        await peer.until(lambda: len(peer.account("bob").timeline) == 1)
    with pytest.raises(ClientClosed):
        await sending
    peer.answering.set()
    async with client(peer, device_id="", store=SqliteStore(tmp_path / "a.db")) as alice:
        events = alice.events()
        assert alice.device_id == "phone"
        assert [one.timeline_seq for one in await take(alice.entries(), 3)] == [2, 3, 4]
        async for event in events:
            if isinstance(event, SendSettled):
                assert isinstance(event.outcome, Sent)
                break
    assert len(peer.account("bob").timeline) == 1, "the same key: once"
    store = SqliteStore(tmp_path / "a.db")
    remembered = await store.open()
    await store.close()
    assert remembered.unanswered == []
    assert remembered.cursor == Cursor(3, peer.account("alice").timeline[2].message_id)


async def test_a_store_of_another_device_is_refused(peer: Peer) -> None:
    store = MemoryStore()
    async with client(peer, store=store):
        pass
    with pytest.raises(StoreFailed, match="belongs to device 'phone'"):
        async with client(peer, device_id="laptop", store=store):
            pass


async def test_a_store_that_fails_ends_the_client(peer: Peer) -> None:
    class Full(MemoryStore):
        async def save_cursor(self, cursor: Cursor) -> None:
            if cursor.timeline_seq > 0:
                raise StoreFailed("disk full")

    peer.write("alice", 3)
    async with client(peer, store=Full()) as alice:
        entries = alice.entries()
        with pytest.raises(StoreFailed, match="disk full"):
            await take(entries, 4)


async def test_a_cancelled_send_that_was_not_stored_is_never_sent(peer: Peer) -> None:
    class Slow(MemoryStore):
        gate = asyncio.Event()

        async def put(self, messages: Any) -> None:
            await super().put(messages)
            await self.gate.wait()

    store = Slow()
    async with client(peer, store=store) as alice:
        sending = asyncio.create_task(alice.send(to_user="bob", text="never"))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait({sending})
        store.gate.set()
        await alice.send(to_user="bob", text="sent")
    assert [event.content.text.body for event in peer.account("bob").timeline] == ["sent"]
    assert (await store.open()).unanswered == []


# -- snapshots ------------------------------------------------------------------------------------


async def test_a_rewound_history_becomes_a_snapshot_and_goes_on(peer: Peer) -> None:
    snapshots: list[Snapshot] = []

    async def keep(snapshot: Snapshot) -> None:
        snapshots.append(snapshot)

    peer.write("alice", 4)
    async with client(peer, on_snapshot=keep) as alice:
        events, entries = alice.events(), alice.entries()
        old = await take(entries, 3)
        await peer.until(lambda: peer.sessions[0].acked == 2)
        del peer.account("alice").timeline[1:]
        peer.write("alice", 2)
        peer.sessions[0].break_(Fault(grpc.StatusCode.UNAVAILABLE, "NOT_SERVING", "restored"))
        await peer.session(1)
        await peer.session(2)
        old[-1].ack()
        peer.write("alice", 1)
        (entry,) = await take(entries, 1)
        assert entry.timeline_seq == 4
        assert [one.conversation_id for one in snapshots[0].conversations] == [1, 2]
        assert snapshots[0].as_of.timeline_seq == 3
        assert peer.sessions[2].received[0].hello.cursor.timeline_seq == 3
        async for event in events:
            if isinstance(event, SnapshotTaken):
                break


# -- what else is said ----------------------------------------------------------------------------


async def test_receipts_presence_typing_and_totals(peer: Peer) -> None:
    async with client(peer) as alice:
        receipts, presence, typing = alice.receipts(), alice.presence(), alice.typing()
        peer.sessions[0].say(
            receipts=[{"conversation_id": 7, "user_id": "bob", "delivered_conversation_seq": 3}],
            presence=[{"user_id": "bob", "state": 3, "online_kinds": [1]}],
            typing=[{"conversation_id": 7, "user_id": "bob", "active": True}],
            pong=[{"unread": 4, "mentions": 1, "account_version": 9}],
        )
        assert (await anext(receipts)).delivered_conversation_seq == 3
        friend = await anext(presence)
        assert (friend.user_id, friend.is_online) == ("bob", True)
        assert (await anext(typing)).active
        assert (alice.unread.messages, alice.unread.mentions, alice.account_version) == (4, 1, 9)
        assert (await anext(alice.presence())).user_id == "bob", "a late reader knows, too"


async def test_statements_are_said_again_in_the_next_session(peer: Peer) -> None:
    async with client(peer) as alice:
        alice.mark_read(7, 12)
        alice.app_state("background")
        alice.set_typing(7)
        await peer.until(lambda: len(peer.statements) == 3)
        peer.statements.clear()
        peer.sessions[0].finish("REBALANCED", "NOW")
        await peer.until(lambda: len(peer.statements) == 2)
        kinds = {frame.WhichOneof("kind") for frame in peer.statements}
        assert kinds == {"mark_read", "app_state"}


async def test_a_slow_application_stops_the_server_and_grows_nothing(peer: Peer) -> None:
    peer.write("alice", 500)
    async with client(peer) as alice:
        entries = alice.entries()
        await take(entries, 1)
        await peer.until(lambda: peer.sessions[0].written == 16)
        assert len(alice._hub.inbox) < 16
        rest = await take(entries, 499)
        assert [one.timeline_seq for one in rest] == list(range(2, 501))


async def test_one_reader_at_a_time(peer: Peer) -> None:
    async with client(peer) as alice:
        waiting = asyncio.create_task(anext(alice.entries()))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one reader"):
            await anext(alice.entries())
        waiting.cancel()


async def test_leaving_is_orderly_and_a_client_is_used_once(peer: Peer) -> None:
    phone = client(peer)
    with pytest.raises(ClientClosed, match="async with"):
        phone.entries()
    async with phone:
        entries = phone.entries()
        sending = asyncio.create_task(phone.send(to_user="bob", text="x"))
        await asyncio.sleep(0)
    assert (await sending).timeline_seq == 1, "what was sent was answered before leaving"
    assert [one.timeline_seq async for one in entries] == [1]
    assert peer.sessions[0].half_closed
    with pytest.raises(ClientClosed):
        await phone.send(to_user="bob", text="y")
    with pytest.raises(ClientClosed, match="once"):
        await phone.__aenter__()


async def test_plain_text_off_this_machine_is_refused() -> None:
    for target in ("chat.example:7030", "dns:///chat.example:7030", "10.0.0.1:7030"):
        with pytest.raises(ChatmeshError, match="plain text"):
            Client(target, token="x")
    for target in ("localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/run/x", "ipv4:127.0.0.1:1"):
        Client(target, token="x")
    Client("chat.example:7030", token="x", allow_plaintext=True)


async def test_no_task_is_left(peer: Peer) -> None:
    before = asyncio.all_tasks()
    async with client(peer) as alice:
        await alice.send(to_user="bob", text="x")
    left = {
        task for task in asyncio.all_tasks() - before if task.get_name().startswith("chatmesh-")
    }
    assert not left
