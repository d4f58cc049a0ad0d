"""What the SDK remembers and renews: tokens, stores, snapshots, state; over real gRPC streams."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from chatmesh.client import (
    Attachment,
    AuthenticationFailed,
    ChatmeshError,
    Client,
    ClientClosed,
    Cursor,
    Edit,
    Entry,
    Forwarded,
    InvalidRequest,
    MemoryStore,
    Message,
    PushPriority,
    SendSettled,
    Sent,
    Snapshot,
    SnapshotTaken,
    SqliteStore,
    StoreFailed,
    Text,
)
from chatmesh.runtime.faults import Fault
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


async def test_unanswered_messages_are_told_as_they_were_offered(
    peer: Peer, tmp_path: Path
) -> None:
    everything = Message(
        Edit(3, Text("x")), conversation_id=7, reply_to=2, silent=True, expires_at_ms=9,
        push_priority=PushPriority.HIGH, push_collapse_key="c", encrypted=True,
        metadata={"a": "b"}, mentions=("carol",), thread_root=1,
        attachments=(Attachment("https://a.example/f", "image/png", 5, b"h" * 32, "f"),),
        forwarded_from=Forwarded("dave", 4),
    )  # fmt: skip
    store = SqliteStore(tmp_path / "a.db")
    async with client(peer, store=store, close_timeout_seconds=0) as alice:
        peer.answering.clear()
        key = alice.new_key()
        sending = [
            asyncio.create_task(alice.send_message(one))
            for one in (dataclasses.replace(text(1), key=key), everything)
        ]
        await peer.until(lambda: len(alice.unanswered()) == 2)
    await asyncio.gather(*sending, return_exceptions=True)
    store = SqliteStore(tmp_path / "a.db")
    async with Client(
        "127.0.0.1:1", token="alice", store=store, connect_timeout_seconds=None,
        close_timeout_seconds=0,
    ) as alice:  # fmt: skip
        first, second = alice.unanswered()
    assert first == dataclasses.replace(text(1), key=key)
    assert second == dataclasses.replace(everything, key=second.key)


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
