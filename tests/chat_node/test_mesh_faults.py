"""A node that dies, a store that goes away, a node that leaves: nothing accepted is lost, nothing
comes twice, every send is answered. With a mesh of their own, for they break it."""

import asyncio
import json
import signal
import socket
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest

from chatmesh.embedded.supervisor import Mesh, MeshOptions
from chatmesh.runtime.failpoints import VARIABLE
from chatmesh.v1 import session_pb2 as pb
from tests.chat_node.device import Device, all_see

pytestmark = [pytest.mark.mesh, pytest.mark.slow]

KILLS = {
    "commit.before": 7,
    "commit.after": 7,
    "enqueue.before": 7,
    "result.before": 7,
    "write.before": 30,
    "ack.after": 1,
    "attach.after": 3,
}
"""Failpoint → the passage at which the node dies, in each of its lives."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """Two nodes; what is killed starts again."""
    with (
        tempfile.TemporaryDirectory(prefix="chatmesh-faults-") as folder,
        Mesh(MeshOptions(data=Path(folder) / "data", ports="auto")) as running,
    ):
        yield running


@pytest.fixture(autouse=True)
async def whole(request: pytest.FixtureRequest) -> None:
    """A test begins when all that the one before it broke serves again."""
    if "mesh" in request.fixturenames:
        mesh: Mesh = request.getfixturevalue("mesh")
        await asyncio.to_thread(mesh.wait_ready)


def device(mesh: Mesh, user: str, device_id: str, node: int = 0) -> Device:
    running = mesh.running
    return Device(running.public, user, device_id, running.token(user), node=node)


def names() -> tuple[str, str]:
    suffix = uuid.uuid4().hex[:8]
    return f"alice-{suffix}", f"bob-{suffix}"


async def converse(phone: Device, other: Device, count: int, first: int = 0) -> list[bytes]:
    """Both send; every message is answered, whatever happens. Alice's keys, then Bob's."""

    async def talk(one: Device, to: str) -> list[bytes]:
        keys: list[bytes] = []
        for number in range(first, first + count):
            keys += await one.send(f"{one.user} {number}", to=to)
            if number % 10 == 9:
                await one.answered(keys)
        await one.answered(keys)
        return keys

    hers, his = await asyncio.gather(talk(phone, other.user), talk(other, phone.user))
    return [*hers, *his]


async def check(devices: list[Device], keys: list[bytes]) -> None:
    """I1 to I4: all accepted, everywhere, once, in one order, in the order that each was sent."""
    for one in devices:
        await one.through(lambda one=one: len(one.stored) >= len(keys))  # type: ignore[misc]
    results = {key: result for one in devices for key, result in one.results.items()}
    ids = [results[key].message_id for key in keys]
    assert all(not results[key].HasField("problem") for key in keys)
    assert len(set(ids)) == len(keys), "one key, one message"
    orders = [[entry.event.message_id for entry in one.stored] for one in devices]
    assert all(sorted(order) == sorted(ids) for order in orders), "each once, none missing"
    assert all(order == orders[0] for order in orders)
    for one in devices[:2]:
        mine = [entry for entry in one.stored if entry.event.sender_user_id == one.user]
        numbers = [int(entry.event.content.text.body.split()[1]) for entry in mine]
        assert numbers == sorted(numbers), "in the order in which they were sent"


@pytest.mark.parametrize("point", KILLS)
async def test_a_node_killed_at_a_failpoint_loses_and_doubles_nothing(point: str) -> None:
    environment = {"chat-1": {VARIABLE: f"{point}:kill@{KILLS[point]}"}}
    with tempfile.TemporaryDirectory(prefix="chatmesh-point-") as folder:
        options = MeshOptions(data=Path(folder) / "data", ports="auto", environment=environment)
        with Mesh(options) as mesh:
            before = mesh.pid("chat-1")
            alice, bob = names()
            phone, other = device(mesh, alice, "phone", 0), device(mesh, bob, "phone", 1)
            laptop = device(mesh, alice, "laptop", 1)
            try:
                for one in (phone, laptop, other):
                    await one.reopen()
                for _ in range(10):  # attach.after counts sessions
                    await device(mesh, bob, uuid.uuid4().hex, 0).hang_up_after_welcome()
                keys = await converse(phone, other, 60)
                for round_number in range(1, 50):
                    if mesh.pid("chat-1") != before:
                        break
                    keys += await converse(phone, other, 20, round_number * 100)
                assert mesh.pid("chat-1") != before, "the failpoint was passed"
                await check([phone, other, laptop], keys)
            finally:
                for one in (phone, laptop, other):
                    await one.hang_up()


async def test_postgresql_restarts_under_load(mesh: Mesh) -> None:
    alice, bob = names()
    phone, other = device(mesh, alice, "phone", 0), device(mesh, bob, "phone", 1)
    async with phone, other:
        running = asyncio.create_task(converse(phone, other, 200))
        await phone.until(lambda: len(phone.stored) >= 20)
        await asyncio.to_thread(mesh.kill, "postgres", signal.SIGKILL)
        keys = await running
        await check([phone, other], keys)


async def test_every_connection_is_terminated_under_load(mesh: Mesh) -> None:
    alice, bob = names()
    phone, other = device(mesh, alice, "phone", 0), device(mesh, bob, "phone", 1)
    async with phone, other:
        running = asyncio.create_task(converse(phone, other, 200))
        for share in (20, 60, 100):
            await phone.until(lambda share=share: len(phone.stored) >= share)  # type: ignore[misc]
            with psycopg.connect(mesh.running.owner_url(), autocommit=True) as connection:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name like 'chatmesh_chat%'"
                )
        keys = await running
        await check([phone, other], keys)


@pytest.mark.parametrize("name", ["sync", "presence", "push", "valkey"])
async def test_a_neighbour_that_dies_stops_no_message(mesh: Mesh, name: str) -> None:
    alice, bob = names()
    phone, other = device(mesh, alice, "phone", 0), device(mesh, bob, "phone", 1)
    async with phone, other:
        running = asyncio.create_task(converse(phone, other, 100))
        await phone.until(lambda: len(phone.stored) >= 10)
        await asyncio.to_thread(mesh.kill, name, signal.SIGKILL)
        keys = await running
        await check([phone, other], keys)
        assert (phone.connects, other.connects) == (1, 1), "the sessions went on"


async def test_new_messages_wait_for_the_sequencer_and_nothing_else_does(mesh: Mesh) -> None:
    alice, bob = names()
    phone, other = device(mesh, alice, "phone", 0), device(mesh, bob, "phone", 1)
    async with phone, other:
        (key,) = await phone.send("first", to=bob)
        await phone.answered([key])
        message = phone.sent[key]
        await asyncio.to_thread(mesh.hold, "sequencer", signal.SIGKILL)
        try:
            await phone.say(ping=pb.Ping(nonce=1))
            await phone.until(lambda: any(p.nonce == 1 for f in phone.frames for p in f.pong))
            await asyncio.sleep(0.1)  # ids in stock are thrown away after 50 ms
            (waiting,) = await phone.send("second", to=bob)
            laptop = await device(mesh, alice, "laptop", 1).open()
            await laptop.until(lambda: laptop.texts() == ["first"])
            await laptop.hang_up()
            assert waiting not in phone.results
        finally:
            await asyncio.to_thread(mesh.release, "sequencer")
            await asyncio.to_thread(mesh.wait_ready, ["sequencer"])
        await phone.answered([waiting])
        await other.until(lambda: other.texts() == ["first", "second"])
        assert message.idempotency_key == key


async def test_a_node_that_leaves_asks_first_and_answers_everything(mesh: Mesh) -> None:
    alice, bob = names()
    phone, other = device(mesh, alice, "phone", 0), device(mesh, bob, "phone", 1)
    async with phone, other:
        running = asyncio.create_task(converse(phone, other, 100))
        await phone.until(lambda: len(phone.stored) >= 10)
        seen = phone.frames
        await asyncio.to_thread(mesh.hold, "chat-1")
        keys = await running
        asyncio.get_running_loop().run_in_executor(None, mesh.release, "chat-1")
        await check([phone, other], keys)
        order = [
            kind
            for frame in seen
            for kind in ("going_away", "closed")
            for _ in getattr(frame, kind)
        ]
        assert order == ["going_away", "closed"]
        (closed,) = [closed for frame in seen for closed in frame.closed]
        assert closed.reason == pb.Closed.REASON_DRAINED
        assert closed.reconnect == pb.Closed.RECONNECT_NOW
        assert other.connects == 1
    await asyncio.to_thread(mesh.wait_ready, ["chat-1"])


async def test_after_a_drain_nothing_is_left_of_the_node(mesh: Mesh) -> None:
    alice, bob = names()
    phone, other = device(mesh, alice, "phone", 0), device(mesh, bob, "phone", 1)
    async with phone, other:
        await phone.answered(await phone.send("hello", to=bob))
        await all_see((other,), lambda one: one.stored)
        await asyncio.to_thread(mesh.hold, "chat-1")
        try:
            with psycopg.connect(mesh.running.owner_url(), autocommit=True) as connection:
                row = connection.execute(
                    "select count(*) from chat.device d join chat.account a on a.id = d.account"
                    " where a.external_id = %s and d.session_node > 0",
                    (alice,),
                ).fetchone()
            assert row == (0,)
        finally:
            await asyncio.to_thread(mesh.release, "chat-1")
            await asyncio.to_thread(mesh.wait_ready, ["chat-1"])


async def test_a_node_alone_starts_says_what_it_misses_and_recovers(mesh: Mesh) -> None:
    """Stores and peers away: listening, NOT_SERVING, named; then serving without a restart."""
    for name in ("sequencer", "presence", "postgres"):
        await asyncio.to_thread(mesh.hold, name, signal.SIGKILL)
    await asyncio.to_thread(mesh.kill, "chat-1", signal.SIGKILL)
    alice, _ = names()
    phone = device(mesh, alice, "phone", 0)
    try:
        missing = await asyncio.to_thread(_missing, mesh)
        assert {"postgresql", "sequencer", "presence"} <= missing
        with pytest.raises(ConnectionError):
            await phone.open()
        assert phone.end is not None
        assert phone.end[0] is grpc.StatusCode.UNAVAILABLE
        assert "postgresql" in phone.end[1]
        pid = mesh.pid("chat-1")
    finally:
        for name in ("postgres", "presence", "sequencer"):
            await asyncio.to_thread(mesh.release, name)
    await asyncio.to_thread(mesh.wait_ready)
    assert mesh.pid("chat-1") == pid
    await phone.reopen()
    await phone.hang_up()


def _missing(mesh: Mesh) -> set[str]:
    """Names that the node's /readyz tells as missing, once it listens on all its ports."""
    ((address, public),) = [
        (p.metrics, p.public) for p in mesh.running.processes if p.name == "chat-1"
    ]
    host, _, port = public.rpartition(":")
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            with urllib.request.urlopen(f"http://{address}/readyz", timeout=5):
                pass
        except urllib.error.HTTPError as answer:
            return set(json.loads(answer.read())["missing"])
        except OSError:
            pass  # it is still starting
        time.sleep(0.1)
    raise AssertionError("the node says nothing")
