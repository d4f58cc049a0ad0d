"""Loss, duplicates and order where links break, processes hang and clocks are apart: one test a row
of the tables in docs/testing.md."""

from __future__ import annotations

import asyncio
import random
import signal
import urllib.request
import uuid
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1 import session_pb2_grpc, types_pb2
from tests.chat_node.device import Device
from tests.faults.broken_links import CLOCKS_AHEAD_SECONDS, Links, broken_links
from tests.raw import bearer, new_key

pytestmark = [pytest.mark.mesh, pytest.mark.slow]

CANCELLED_SENDS = 5_000
AT_ONCE = 50
CUTS = 60


@pytest.fixture(scope="module")
async def links() -> AsyncIterator[Links]:
    async with broken_links() as running:
        yield running


def names(*users: str) -> list[str]:
    suffix = uuid.uuid4().hex[:8]
    return [f"{user}-{suffix}" for user in users]


def open_sends(address: str) -> float:
    """Calls of SendMessages that a node is still busy with."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    values = [
        sample.value
        for family in text_string_to_metric_families(page)
        if family.name == "chatmesh_rpc_open"
        for sample in family.samples
        if sample.labels["method"].endswith("SendMessages")
    ]
    assert values, "the node counts them"
    return sum(values)


def texts_in_order(device: Device, sender: str) -> list[str]:
    mine = (entry.event for entry in device.stored if entry.event.sender_user_id == sender)
    return [event.content.text.body for event in mine]


async def test_clocks_that_are_apart_change_no_order_and_refuse_nothing(links: Links) -> None:
    alice, bob = names("alice", "bob")
    phone, laptop = links.device(alice, "phone", 0), links.device(alice, "laptop", 1)
    other = links.device(bob, "phone", 1)
    devices = (phone, laptop, other)
    async with phone, laptop, other:
        for number in range(20):
            asked = [
                (phone, await phone.send(f"phone {number}", to=bob)),
                (laptop, await laptop.send(f"laptop {number}", to=bob)),
                (other, await other.send(f"other {number}", to=alice)),
            ]
            for device, keys in asked:
                for result in await device.answered(keys):
                    assert not result.HasField("problem"), result
        for device in devices:
            await device.until(lambda device=device: len(device.stored) == 60)  # type: ignore[misc]
    orders = [[entry.event.message_id for entry in device.stored] for device in devices]
    assert orders[0] == orders[1] == orders[2]
    assert len(set(orders[0])) == 60
    times = [entry.event.created_at_ms for entry in phone.stored]
    assert times == sorted(times), "the store's time, whatever the nodes believe"
    assert len(set(CLOCKS_AHEAD_SECONDS.values())) == 4


async def test_answers_of_commits_that_are_cut_off_store_nothing_twice(links: Links) -> None:
    """PostgreSQL commits, its answer is lost with the connection: again, under the same keys."""
    alice, bob = names("alice", "bob")
    phone, other = links.device(alice, node=0), links.device(bob, node=1)
    async with phone, other:
        await phone.answered(await phone.send("first", to=bob))
        before = links.postgres.connections
        for number in range(CUTS):
            links.postgres.cut_after("down", 0)
            await phone.answered(await phone.send(f"{number}", to=bob))
        assert links.postgres.connections - before >= CUTS // 2, "it was cut"
        links.postgres.heal()
        await other.through(lambda: len(other.stored) > CUTS)
        wanted = ["first", *(f"{number}" for number in range(CUTS))]
        assert texts_in_order(other, alice) == wanted
        assert phone.results.keys() == phone.sent.keys()
        assert not any(result.HasField("problem") for result in phone.results.values())


async def until_commits_wait(links: Links, waiting: str) -> None:
    """A reload is asked for, not done, when its call returns: until a commit of ours waits."""
    async with asyncio.timeout(60):
        while True:
            commit = asyncio.create_task(links.ask("select pg_logical_emit_message(true, '', '')"))
            found: list[tuple[int]] = []
            while not found and not commit.done():
                found = await links.ask(waiting)
            for (pid,) in found:
                await links.ask("select pg_cancel_backend(%s)", pid)
            await commit
            if found:
                return


async def test_a_standby_that_hangs_holds_answers_back(links: Links) -> None:
    """Whoever cancels the wait for a synchronous standby makes the outcome unknown, not good: the
    message is committed again under its key until the standby has it."""
    alice, bob = names("alice", "bob")
    phone = links.device(alice, node=0)
    waiting = "select pid from pg_stat_activity where wait_event = 'SyncRep'"
    async with phone:
        await phone.answered(await phone.send("before", to=bob))
        await links.ask("alter system set synchronous_standby_names = 'hangs'")
        await links.ask("select pg_reload_conf()")
        try:
            await until_commits_wait(links, waiting)
            keys = await phone.send("waits", to=bob)
            seen: set[int] = set()
            async with asyncio.timeout(60):
                while len(seen) < 3:  # each is another try of the node
                    pids = {pid for (pid,) in await links.ask(waiting)} - seen
                    for pid in pids:
                        await links.ask("select pg_cancel_backend(%s)", pid)
                    seen |= pids
                    await asyncio.sleep(0.02)
            await phone.say(ping=pb.Ping(nonce=7))
            await phone.until(lambda: any(p.nonce == 7 for f in phone.frames for p in f.pong))
            assert keys[0] not in phone.results, "answered for a commit that no standby has"
        finally:
            await links.ask("alter system reset synchronous_standby_names")
            await links.ask("select pg_reload_conf()")
        (result,) = await phone.answered(keys)
        assert result.conversation_seq == 2
        await phone.until(lambda: len(phone.stored) == 2)
        assert phone.texts() == ["before", "waits"]


async def test_what_is_committed_while_a_session_attaches_is_not_missed(links: Links) -> None:
    """The second node waits between a session's route and its read; meanwhile 100 commits."""
    alice, bob = names("alice", "bob")
    phone, other = links.device(alice, node=0), links.device(bob, node=1)
    async with phone:
        await phone.answered(await phone.send("first", to=bob))
        opening = asyncio.create_task(other.open())
        keys: list[bytes] = []
        for number in range(10):
            keys += await phone.send(*(f"{number} {n}" for n in range(10)), to=bob)
        await phone.answered(keys)
        await opening
        await other.until(lambda: len(other.stored) == 101)
        assert texts_in_order(other, alice) == phone.texts()
        await other.hang_up()


async def test_sends_cancelled_at_any_moment_are_whole_or_not_there(links: Links) -> None:
    """5,000 sends whose callers give up at random; sent again, each is one message."""
    alice, bob = names("alice", "bob")
    metadata = bearer(links.mesh.running.token(alice))
    messages = [
        types_pb2.OutgoingMessage(
            idempotency_key=new_key(),
            to_user_id=bob,
            content=types_pb2.Content(text=types_pb2.TextContent(body=f"{number}")),
        )
        for number in range(CANCELLED_SENDS)
    ]
    moments = random.Random(1)
    cancelled = 0
    async with grpc.aio.insecure_channel(
        links.mesh.running.public[0], options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        stub = session_pb2_grpc.ChatServiceStub(channel)

        async def give_up(mine: Sequence[types_pb2.OutgoingMessage]) -> None:
            nonlocal cancelled
            for message in mine:
                request = pb.SendMessagesRequest(messages=[message])
                call = stub.SendMessages(request, metadata=metadata, timeout=60)
                await asyncio.sleep(moments.random() * 0.02)
                cancelled += call.cancel()
                await asyncio.wait([asyncio.ensure_future(call.code())])

        await asyncio.gather(*(give_up(messages[n::AT_ONCE]) for n in range(AT_ONCE)))
        assert cancelled > 0
        print(f"cancelled {cancelled} of {CANCELLED_SENDS}")
        ids = set()
        for at in range(0, CANCELLED_SENDS, 100):
            request = pb.SendMessagesRequest(messages=messages[at : at + 100])
            answer = await stub.SendMessages(request, metadata=metadata, timeout=60)
            assert not any(result.HasField("problem") for result in answer.results)
            ids |= {result.message_id for result in answer.results}
    assert len(ids) == CANCELLED_SENDS
    (metrics,) = [one.metrics for one in links.mesh.running.processes if one.name == "chat-1"]
    async with asyncio.timeout(60):  # nothing is left of them
        while await asyncio.to_thread(open_sends, metrics):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.1)
    ((events, highest),) = await links.ask(
        "select count(*), max(e.conversation_seq) from chat.event e join chat.account a"
        " on a.id = e.sender where a.external_id = %s and e.message_no > 0",
        alice,
    )
    assert (events, highest) == (CANCELLED_SENDS, CANCELLED_SENDS)


async def test_hints_that_come_again_are_not_seen_again(links: Links) -> None:
    """sync stands still until the nodes send their rows again, then handles both."""
    alice, bob = names("alice", "bob")
    phone, other = links.device(alice, node=0), links.device(bob, node=1)
    async with phone, other:
        await phone.answered(await phone.send("0", to=bob))
        await other.until(lambda: len(other.stored) == 1)
        await asyncio.to_thread(links.mesh.kill, "sync", signal.SIGSTOP)
        try:
            for number in range(1, 30):
                await phone.answered(await phone.send(f"{number}", to=bob))
            await links.until("select 1 from chat.outbox where attempt > 0 limit 1")
        finally:
            await asyncio.to_thread(links.mesh.kill, "sync", signal.SIGCONT)
        await other.through(lambda: len(other.stored) >= 30)
        await links.until("select 1 where not exists (select from chat.outbox)")
        await other.say(ping=pb.Ping(nonce=9))
        await other.until(lambda: any(p.nonce == 9 for f in other.frames for p in f.pong))
        assert texts_in_order(other, alice) == [f"{number}" for number in range(30)]


def attempts_lost(links: Links) -> int:
    """How often the second node could not tell another to end a session."""
    return links.mesh.folder.log_file("chat-2").read_text().count("not ended elsewhere")


@pytest.mark.parametrize("emptied", [False, True])
async def test_nothing_of_an_older_session_counts_when_its_node_wakes_up(
    links: Links, emptied: bool
) -> None:
    """A device is on node A, which stands still; it connects to B; then A goes on."""
    alice, bob = names("alice", "bob")
    sender, newer = links.device(bob, node=1), links.device(alice, node=1)
    older = links.device(alice, node=0)
    older.acks = newer.acks = False
    acked = (
        "select d.acked_seq from chat.device d join chat.account a on a.id = d.account"
        " where a.external_id = %s"
    )
    lost = attempts_lost(links)
    async with sender, older:
        await sender.answered(await sender.send(*"12345", to=alice))
        await older.until(lambda: len(older.stored) == 5)
        await asyncio.to_thread(links.mesh.kill, "chat-1", signal.SIGSTOP)
        try:
            await older.say(ack=pb.Ack(up_to_timeline_seq=5))
            if emptied:
                await asyncio.to_thread(links.mesh.hold, "valkey", signal.SIGKILL)
                for file in links.mesh.folder.valkey.rglob("*"):
                    if file.is_file():
                        file.unlink()
                await asyncio.to_thread(links.mesh.release, "valkey")
                await asyncio.to_thread(links.mesh.wait_ready, ["valkey"])
            async with newer:
                async with asyncio.timeout(
                    60
                ):  # the second node's first attempt to tell it is lost
                    while await asyncio.to_thread(attempts_lost, links) == lost:
                        await newer.say(ping=pb.Ping())
                        await asyncio.sleep(0.1)
                await asyncio.to_thread(links.mesh.kill, "chat-1", signal.SIGCONT)
                await older.until(lambda: older.end is not None)
                assert older.closed is not None
                assert older.closed.reason == pb.Closed.REASON_REPLACED
                await newer.until(lambda: len(newer.stored) == 5)
                await sender.answered(await sender.send("6", to=alice))
                await newer.until(lambda: len(newer.stored) == 6)
                assert len(older.stored) == 5, "the older session gets nothing any more"
                assert await links.ask(acked, alice) == [(0,)], "its ack came too late"
                await newer.say(ack=pb.Ack(up_to_timeline_seq=3))
                await links.until(f"{acked} and d.acked_seq = 3", alice)
        finally:
            await asyncio.to_thread(links.mesh.kill, "chat-1", signal.SIGCONT)
            await asyncio.to_thread(links.mesh.wait_ready)


async def test_sends_under_way_keep_their_order_around_a_refusal_and_a_cut(links: Links) -> None:
    alice, bob = names("alice", "bob")
    phone, other = links.device(alice, node=0), links.device(bob, node=1)
    async with phone, other:
        texts = [f"{number}" for number in range(100)]
        texts[2] = "not \0 allowed"
        links.public[0].cut_after("down", 1_500)
        keys = await phone.send(*texts, to=bob)
        results = await phone.answered(keys)
        assert phone.connects > 1, "it was cut"
        refused = [n for n, result in enumerate(results) if result.HasField("problem")]
        assert refused == [2]
        seqs = [result.conversation_seq for result in results if not result.HasField("problem")]
        assert seqs == list(range(1, 100))
        await other.through(lambda: len(other.stored) == 99)
        assert texts_in_order(other, alice) == [text for n, text in enumerate(texts) if n != 2]
