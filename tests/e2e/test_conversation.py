"""A conversation over two chat nodes while links are cut, a device is killed and a node dies.

Real mesh, receivers in processes of their own (one by raw stubs), everything recorded and checked
against I1-I7 and I11.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chatmesh.client import Client, Entry, UnaryClient
from chatmesh.testing import Recorder, TcpProxy, check, read_history
from chatmesh.testing.mesh import RunningChat, start_mesh
from chatmesh.testing.recording import RecordingDevice
from tests.e2e.receiving import Receiver

pytestmark = [pytest.mark.mesh, pytest.mark.slow]

MESSAGES = 120
"""A side; enough to fill windows and to have some on their way whenever something breaks."""
AT_ONCE = 10


@pytest.fixture(scope="module")
def chat() -> Iterator[RunningChat]:
    with start_mesh(chat_nodes=2) as running:
        yield running


async def head_of(chat: RunningChat, user: str) -> int:
    """The head of a user's timeline, as a new session is told."""
    async with chat.client(user, "observer", start="head") as client:
        assert client.session is not None
        return client.session.head_timeline_seq


class Sender:
    """One side of the conversation: a client that also receives, recorded."""

    def __init__(self, client: Client, recorder: Recorder, user: str, to: str) -> None:
        self.device = RecordingDevice(client, recorder, user, "phone")
        self.user, self.to = user, to
        self._next = iter(range(MESSAGES))

    async def send_all(self) -> None:
        """Ten at a time, in order within each."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._some())

    async def _some(self) -> None:
        for number in self._next:
            assert await self.device.send(self.to, f"{self.user} says {number}") is not None


async def test_nothing_is_lost_doubled_or_reordered(chat: RunningChat, tmp_path: Path) -> None:
    both = ",".join(chat.targets)
    receivers = [
        Receiver(
            kind, target=both, token=chat.token(user), user=user, device=device,
            history=tmp_path / f"{user}-{device}.jsonl",
        )
        for kind, user, device in (
            ("sdk", "alice", "laptop"), ("raw", "bob", "tablet"), ("sdk", "bob", "laptop"),
        )
    ]  # fmt: skip
    await asyncio.gather(*(receiver.start() for receiver in receivers))
    recorders = {user: Recorder(tmp_path / f"{user}.jsonl", user) for user in ("alice", "bob")}
    async with contextlib.AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(TcpProxy(target)) for target in chat.targets]
        through = [proxy.address for proxy in proxies]
        senders = []
        for user, to, targets in (("alice", "bob", through), ("bob", "alice", through[::-1])):
            recorder = stack.enter_context(recorders[user])
            client = Client(
                ",".join(targets), token=chat.token(user), device_id="phone", ack="manual"
            )
            await stack.enter_async_context(client)
            sender = Sender(client, recorder, user, to)
            receiving = asyncio.create_task(sender.device.receive())
            stack.push_async_callback(finished, receiving)
            senders.append(sender)
        sending = [asyncio.create_task(sender.send_all()) for sender in senders]
        await break_things(chat, proxies, receivers, senders)
        await asyncio.gather(*sending)
        heads = {user: await head_of(chat, user) for user in ("alice", "bob")}
        for sender in senders:
            await sender.device.reaches(heads[sender.user])
            sender.device.final(heads[sender.user])
        for receiver in receivers:
            await receiver.reaches(heads[receiver.user])
            await receiver.end()
            recorders[receiver.user].record(
                "final", user=receiver.user, device=receiver.device,
                timeline_seq=heads[receiver.user],
            )  # fmt: skip
    report = check(read_history(await asyncio.to_thread(histories, tmp_path)))
    assert report.ok, report.violations
    assert report.counts["send"] == report.counts["sent"] == 2 * MESSAGES
    assert report.counts["received"] >= 2 * MESSAGES * 5


def histories(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


async def finished(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def break_things(
    chat: RunningChat, proxies: list[TcpProxy], receivers: list[Receiver], senders: list[Sender]
) -> None:
    """Each at a point of progress, not of time."""
    alice, bob = senders
    await alice.device.reaches(20)
    proxies[0].cut_after("down", 500)
    proxies[1].cut_after("up", 500)
    await bob.device.reaches(60)
    await receivers[2].kill()
    for proxy in proxies:
        proxy.cut_all()
    await alice.device.reaches(100)
    await asyncio.to_thread(chat.mesh.kill, "chat-2")
    await receivers[2].start()


async def test_a_script_without_a_session_is_heard(chat: RunningChat) -> None:
    async with chat.client("carol", "phone", node=1) as carol:
        async with UnaryClient(chat.targets[0], token=chat.token("robot")) as robot:
            from chatmesh.client import Message, Text

            sent = await robot.send(Message(Text("built"), to_user="carol"))
            again = await robot.send(Message(Text("built"), to_user="carol", key=sent.key))
            assert (again.message_id, again.repeated) == (sent.message_id, True)
        entry = await anext(carol.entries())
        assert (entry.text, entry.event.sender) == ("built", "robot")


async def test_nodes_are_replaced_without_an_error(chat: RunningChat) -> None:
    """Both nodes are drained and started again, one after the other, while a message is always on
    its way; the SDK moves, and the application sees no error."""
    both, replaced = ",".join(chat.targets), asyncio.Event()
    async with (
        Client(both, token=chat.token("dora"), device_id="phone") as dora,
        Client(both, token=chat.token("eric"), device_id="phone") as eric,
    ):

        async def send() -> int:
            count = 0
            while not replaced.is_set():
                count += 1
                await dora.send(to_user="eric", text=f"{count}")
            return count

        async def replace() -> None:
            for name in ("chat-1", "chat-2"):
                await asyncio.to_thread(chat.mesh.restart, name)
                await asyncio.to_thread(chat.mesh.wait_ready, [name])
            replaced.set()

        sending = asyncio.create_task(send())
        await replace()
        count = await sending
        heard = [entry.text async for entry in limited(eric, count)]
        assert heard == [f"{number}" for number in range(1, count + 1)]


async def limited(client: Client, count: int) -> AsyncIterator[Entry]:
    """The first so many text entries."""
    async for entry in client.entries():
        if entry.text is not None:
            yield entry
            count -= 1
        if count == 0:
            return
