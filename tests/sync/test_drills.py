"""A whole mesh under load: Redis stopped, killed, emptied, failed over, a node killed with it, a
client stopped, a backlog. Every message and every device is accounted for.

`CHATMESH_DRILL_SECONDS` makes each outage and the load around it longer (`make faults-long`: 30).
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from chatmesh.cli.bench import push_tokens, sync_record, sync_run
from chatmesh.cli.bench.mesh import MeasuredMesh
from chatmesh.cli.bench.plan import DevicePlan, Load
from chatmesh.cli.bench.sync_plan import AwayLoad, HintLoad
from chatmesh.embedded.supervisor import Mesh, MeshOptions
from chatmesh.testing import Invariant, Recorder, TcpProxy, check, read_history
from tests.chat_node.test_mesh_faults import check as all_is_there
from tests.chat_node.test_mesh_faults import converse, device
from tests.e2e.receiving import Receiver
from tests.sync.valkeys import PASSWORD, Valkey

pytestmark = [pytest.mark.mesh, pytest.mark.slow]

OUTAGE_SECONDS = float(os.environ.get("CHATMESH_DRILL_SECONDS", "1"))
LOAD_SECONDS = 10 + 4 * OUTAGE_SECONDS
PATIENCE_SECONDS = 90
ACK_TIMEOUT_SECONDS = 5


@dataclasses.dataclass(slots=True)
class Stage:
    """A mesh whose Redis is two servers behind a proxy."""

    mesh: Mesh
    proxy: TcpProxy
    leader: Valkey
    spare: Valkey


@pytest.fixture(scope="module")
async def stage() -> AsyncIterator[Stage]:
    primary, replica = Valkey(), Valkey()
    with tempfile.TemporaryDirectory(prefix="chatmesh-redis-") as folder:
        try:
            await asyncio.gather(asyncio.to_thread(primary.start), asyncio.to_thread(replica.start))
            async with TcpProxy(primary.address) as proxy:
                options = MeshOptions(
                    data=Path(folder) / "data",
                    ports="auto",
                    redis_url=f"redis://:{PASSWORD}@{proxy.address}/0",
                    environment={
                        "chat_svc": {"CHATMESH_LIMIT_ACK_TIMEOUT_SECONDS": str(ACK_TIMEOUT_SECONDS)}
                    },
                )
                mesh = Mesh(options)
                await asyncio.to_thread(mesh.start)
                try:
                    yield Stage(mesh, proxy, primary, replica)
                finally:
                    await asyncio.to_thread(mesh.stop)
        finally:
            primary.end()
            replica.end()


class Seen:
    """How far the load is."""

    def __init__(self) -> None:
        self.phase = ""
        self.delivered = 0

    def __call__(self, phase: str, _share: float, delivered: int) -> None:
        self.phase, self.delivered = phase, delivered

    async def more(self, count: int = 20) -> None:
        """Return when so many more messages were delivered, or the load is over."""
        wanted = self.delivered + count
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.delivered < wanted and not self.phase.startswith("waiting"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # the load tells a few times a second


async def outages(stage: Stage, seen: Seen) -> None:
    """One after the other, messages in between."""
    primary, replica = stage.leader, stage.spare
    await seen.more()
    primary.signal(signal.SIGSTOP)
    await asyncio.sleep(OUTAGE_SECONDS)  # the length of the outage, nothing is waited for
    primary.signal(signal.SIGCONT)
    await seen.more()
    primary.signal(signal.SIGKILL)
    await seen.more(5)
    await asyncio.to_thread(primary.start)
    await seen.more()
    primary.signal(signal.SIGKILL)
    primary.wipe()
    await asyncio.to_thread(primary.start)
    await seen.more()
    await asyncio.to_thread(replica.follow, primary)
    primary.signal(signal.SIGKILL)
    await asyncio.to_thread(replica.lead)
    stage.proxy.target = replica.address
    stage.leader = replica
    await seen.more()


async def test_redis_stopped_killed_emptied_and_failed_over_under_load(stage: Stage) -> None:
    online = Load(
        pairs=5,
        window=None,
        rate=40,
        size_bytes=100,
        seconds=LOAD_SECONDS,
        warmup_seconds=0,
    )
    seen = Seen()
    load = HintLoad(online, AwayLoad(users=3, rate=6))
    running = MeasuredMesh(stage.mesh.running)
    async with asyncio.TaskGroup() as group:
        measured = group.create_task(sync_run.run(running, load, seen))
        group.create_task(outages(stage, seen))
    outcome = measured.result()
    totals = outcome.totals
    assert totals.sent >= 0.9 * online.seconds * 40, "sends went on"
    assert (totals.lost, totals.duplicated, totals.out_of_order) == (0, 0, 0)
    assert not any(dataclasses.asdict(outcome.counts).values()), outcome.counts
    assert outcome.pushes_in_all >= load.away.users, "those who were away were told"
    await until(lambda: sync_record.outbox(running.mesh)[0] == 0)


async def test_a_backlog_drains_in_order_and_never_becomes_a_storm(stage: Stage) -> None:
    """sync_svc is held while hints gather; what it gets then is never twice what is unsettled."""
    online = Load(pairs=6, window=None, rate=100, size_bytes=100, seconds=3, warmup_seconds=0)
    load = HintLoad(online, AwayLoad(users=2, rate=6), backlog=300)
    running = MeasuredMesh(stage.mesh.running, stage.mesh)
    outcome = await sync_run.run(running, load, Seen())
    totals, drain = outcome.totals, outcome.drain
    assert (totals.lost, totals.duplicated, totals.out_of_order) == (0, 0, 0)
    assert not any(dataclasses.asdict(outcome.counts).values()), outcome.counts
    assert drain is not None
    assert drain.hints > 100
    assert drain.sync_memory_mib_max > 0
    assert drain.queue_entries_max <= 2 * drain.unsettled_batches_max
    assert outcome.passed


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that processes do."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)


async def test_a_node_and_redis_die_together(stage: Stage) -> None:
    alice, bob = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("alice", "bob"))
    phone, other = device(stage.mesh, alice, "phone", 0), device(stage.mesh, bob, "phone", 1)
    try:
        await phone.reopen()
        await other.reopen()
        keys = await converse(phone, other, 10)
        stage.leader.signal(signal.SIGKILL)
        stage.mesh.kill("chat-2")
        keys += await converse(phone, other, 10, first=10)
        stage.leader.wipe()
        await asyncio.to_thread(stage.leader.start)
        keys += await converse(phone, other, 10, first=20)
        await all_is_there([phone, other], keys)
        await until(lambda: sync_record.outbox(stage.mesh.running)[0] == 0)
    finally:
        await phone.hang_up()
        await other.hang_up()


async def test_sessions_that_end_with_unacked_entries_are_handed_over(stage: Stage) -> None:
    """One by its client's leaving, one by the death of its node; neither comes back."""
    mesh = stage.mesh.running
    alice, leaves, dies = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("alice", "leo", "dora"))
    phone = device(stage.mesh, alice, "phone", 0)
    away = [device(stage.mesh, user, "phone", 1) for user in (leaves, dies)]
    try:
        await phone.reopen()
        for one in away:
            one.acks = False
            await one.open()
            plan = DevicePlan(one.user, "phone", mesh.token(one.user), mesh.public[0])
            await push_tokens.bind(plan, None)
        for user in (leaves, dies):
            await phone.answered(await phone.send("one", "two", to=user))
        for one in away:
            await one.until(lambda one=one: len(one.stored) >= 2)  # type: ignore[misc]
        await away[0].hang_up()
        await asyncio.to_thread(stage.mesh.hold, "chat-2", signal.SIGKILL)
        await until(lambda: sync_record.neither(mesh, [leaves, dies]) == 0)
        for user in (leaves, dies):
            pushes = sync_record.shown(mesh, [user])
            assert pushes, user
            assert sync_record.twice(pushes) == 0
    finally:
        await asyncio.to_thread(stage.mesh.release, "chat-2")
        await asyncio.to_thread(stage.mesh.wait_ready, ["chat-2"])
        for one in (phone, *away):
            await one.hang_up()


async def test_a_stopped_client_is_pushed_and_gets_everything_once_afterwards(
    stage: Stage, tmp_path: Path
) -> None:
    mesh = stage.mesh.running
    alice, bob = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("alice", "bob"))
    token, history = mesh.token(bob), tmp_path / "bob.jsonl"
    receiver = Receiver(
        "raw", target=",".join(mesh.public), token=token, user=bob, device="phone", history=history
    )
    phone = device(stage.mesh, alice, "phone", 0)
    try:
        await receiver.start()
        await push_tokens.bind(DevicePlan(bob, "phone", token, mesh.public[0]), None)
        await phone.reopen()
        await phone.answered(await phone.send("one", to=bob))
        head = phone.results[next(iter(phone.sent))].conversation_seq
        await receiver.reaches(head)
        receiver.signal(signal.SIGSTOP)
        await phone.answered(await phone.send("two", "three", to=bob))
        await until(lambda: bool(sync_record.shown(mesh, [bob])))
        receiver.signal(signal.SIGCONT)
        await receiver.reaches(head + 2)
        await until(lambda: sync_record.neither(mesh, [bob]) == 0)
        await receiver.end()
        pushes = sync_record.shown(mesh, [bob])
    finally:
        await phone.hang_up()
        await receiver.kill()
    with Recorder(tmp_path / "push.jsonl", "push") as recorder:
        recorder.record("token", user=bob, device="phone")
        for push in pushes:
            recorder.record("pushed", user=bob, device="phone", timeline_seq=push.timeline_seq)
        recorder.record("final", user=bob, device="phone", timeline_seq=head + 2)
    wanted = [Invariant.I2, Invariant.I7, Invariant.I8, Invariant.I11]
    report = check(read_history([history, tmp_path / "push.jsonl"]), only=wanted)
    assert report.ok, report.violations
    assert report.counts["received"] == head + 2
    assert [push.timeline_seq for push in pushes] == sorted({push.timeline_seq for push in pushes})
