"""What is owed when sessions end and nodes die: cursors, pushes, rows; leases."""

from collections.abc import Sequence

import pytest

from chat_svc.core.window import AckResult
from chat_svc.node.counters import NodeCounters
from chat_svc.node.cursors import Cursors
from chat_svc.node.farewell import COMEBACK_MS, Ended, Farewell
from chat_svc.node.hints import NodeAddress
from chat_svc.node.lease import LEASE_MS, NodeLease, Reaper
from chat_svc.node.push import Owed
from chat_svc.store.devices import CursorWrite, Head
from chat_svc.store.nodes import StrandedDevice
from tests.chat_node import parts
from tests.chat_node.parts import StepClock


class Devices:
    """Heads, cursors and releases; may be away for a while."""

    def __init__(self) -> None:
        self.heads_of: dict[int, Head] = {}
        self.cursors: list[CursorWrite] = []
        self.closed: list[tuple[int, str, int]] = []
        self.fails = 0
        self.log: list[str] = []

    def _may_fail(self) -> None:
        if self.fails:
            self.fails -= 1
            raise ConnectionError

    async def heads(self, accounts: Sequence[int]) -> dict[int, Head]:
        self._may_fail()
        self.log.append("heads")
        return {account: self.heads_of[account] for account in accounts}

    async def close_sessions(self, sessions: Sequence[tuple[int, str, int]]) -> None:
        self._may_fail()
        self.log.append("close")
        self.closed += sessions

    async def write_cursors(self, rows: Sequence[CursorWrite]) -> None:
        self._may_fail()
        self.log.append("cursors")
        self.cursors += rows


class Push:
    """Takes hand-overs; may be away for a while."""

    def __init__(self, log: list[str]) -> None:
        self.owed: list[Owed] = []
        self.fails = 0
        self.log = log

    async def hand_over(self, owed: Sequence[Owed]) -> None:
        if self.fails:
            self.fails -= 1
            raise ConnectionError
        self.log.append("push")
        self.owed += owed


def bench() -> tuple[Devices, Push, Cursors, Farewell]:
    clock, devices = StepClock(), Devices()
    push = Push(devices.log)
    cursors = Cursors(devices, clock, NodeCounters())
    return devices, push, cursors, Farewell(devices, cursors, push, clock)


async def test_cursors_first_then_push_then_the_row_is_released() -> None:
    devices, push, cursors, farewell = bench()
    devices.heads_of = {2: Head(9, 8, 1, 0)}
    session = parts.live_session(2, "phone", 5)
    cursors.acked(session, AckResult(4, 400, {}, []))
    loop = await parts.running(farewell.run)
    farewell.say(Ended(2, "phone", 5, 4, 9))
    await farewell.wait_idle()
    await parts.stop(loop)
    assert devices.log == ["cursors", "heads", "push", "close"]
    assert [(row.acked_seq, row.acked_id, row.session_no) for row in devices.cursors] == [
        (4, 400, 5)
    ]
    assert push.owed == [Owed(2, "phone", 8, COMEBACK_MS)]
    assert devices.closed == [(2, "phone", 5)]


async def test_what_was_acked_or_may_not_notify_owes_nothing() -> None:
    devices, push, _, farewell = bench()
    devices.heads_of = {3: Head(9, 5, 1, 0)}
    loop = await parts.running(farewell.run)
    farewell.say(Ended(2, "phone", 5, 9, 9))
    farewell.say(Ended(3, "phone", 6, 5, 9))  # behind, but what is missing is silent
    await farewell.wait_idle()
    await parts.stop(loop)
    assert push.owed == []
    assert sorted(devices.closed) == [(2, "phone", 5), (3, "phone", 6)]


async def test_push_away_keeps_only_those_that_are_owed_something() -> None:
    devices, push, _, farewell = bench()
    devices.heads_of = {2: Head(9, 9, 1, 0)}
    push.fails = 3
    loop = await parts.running(farewell.run)
    farewell.say(Ended(2, "phone", 5, 4, 9))
    farewell.say(Ended(3, "phone", 6, 9, 9))
    await parts.until(lambda: devices.closed)
    assert devices.closed == [(3, "phone", 6)]
    await farewell.wait_idle()
    await parts.stop(loop)
    assert len(push.owed) == 1
    assert devices.closed == [(3, "phone", 6), (2, "phone", 5)]


async def test_a_store_that_is_away_loses_nothing() -> None:
    devices, push, cursors, farewell = bench()
    devices.heads_of = {2: Head(9, 9, 1, 0)}
    devices.fails = 4
    cursors.acked(parts.live_session(2, "phone", 5), AckResult(4, 400, {}, []))
    loop = await parts.running(farewell.run)
    farewell.say(Ended(2, "phone", 5, 4, 9))
    await farewell.wait_idle()
    await parts.stop(loop)
    assert (len(devices.cursors), len(push.owed), len(devices.closed)) == (1, 1, 1)


async def test_cursors_of_one_device_are_joined_and_the_newest_is_kept_over_a_failure() -> None:
    devices, _, cursors, _ = bench()
    session = parts.live_session(2, "phone", 5)
    for seq in (1, 2, 3):
        cursors.acked(session, AckResult(seq, seq * 100, {}, []))
    devices.fails = 1
    assert not await cursors.flush()
    cursors.acked(session, AckResult(4, 400, {}, []))
    assert await cursors.flush()
    assert [row.acked_seq for row in devices.cursors] == [4]


class Nodes:
    """Leases as PostgreSQL would hold them."""

    def __init__(self) -> None:
        self.fails = 0
        self.now_ms = 1_700_000_000_000
        self.renewals = 0
        self.is_taken = False
        self.expired: list[list[int]] = []
        self.orphaned: list[list[int]] = []
        self.stranded: list[StrandedDevice] = []
        self.released: list[StrandedDevice] = []
        self.removed: list[int] = []
        self.left: list[int] = []

    def _may_fail(self) -> None:
        if self.fails:
            self.fails -= 1
            raise ConnectionError

    async def start_node(self, name: str, target: str, lease_ms: int) -> int:
        self._may_fail()
        return 42

    async def renew(self, node_id: int, lease_ms: int) -> int:
        self._may_fail()
        self.renewals += 1
        return 0 if self.is_taken else self.now_ms + lease_ms

    async def leave(self, node_id: int) -> None:
        self.left.append(node_id)

    async def take_expired(
        self, before_ms: int, limit: int = 16, *, again_after_ms: int = 30_000
    ) -> list[int]:
        self._may_fail()
        return self.expired.pop(0) if self.expired else []

    async def stranded_devices(
        self, node_id: int, after: tuple[int, str], limit: int
    ) -> list[StrandedDevice]:
        return [d for d in self.stranded if (d.account, d.device_id) > after][:1]

    async def release_devices(self, devices: Sequence[StrandedDevice]) -> None:
        self.released += devices

    async def remove_node(self, node_id: int) -> bool:
        self.removed.append(node_id)
        return True

    async def orphaned_nodes(self, limit: int = 16) -> list[int]:
        return self.orphaned.pop(0) if self.orphaned else []


class OutboxRows:
    """Rows of dead nodes."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    async def take_over(self, node_id: int, dead_nodes: Sequence[int], limit: int) -> int:
        taken, self.rows = self.rows, 0
        return taken


class Judge:
    """A lease by which others may be judged, or not."""

    judges_until_ms = 1 << 62


async def test_a_life_begins_when_postgresql_answers() -> None:
    nodes, clock, address = Nodes(), StepClock(), NodeAddress("n", "t")
    nodes.fails = 2
    lease = NodeLease(nodes, address, clock)
    assert not lease.is_valid
    await lease.start()
    assert address.node_id == 42
    assert lease.is_valid


async def test_a_suspended_node_renews_before_it_acts() -> None:
    nodes, clock = Nodes(), StepClock()
    lease = NodeLease(nodes, NodeAddress("n", "t"), clock)
    await lease.start()
    await lease.wait_valid()
    assert nodes.renewals == 0
    clock.now += LEASE_MS / 1_000
    assert not lease.is_valid
    loop = await parts.running(lease.run)
    await lease.wait_valid()
    assert nodes.renewals == 1
    await parts.stop(loop)


async def test_a_lease_that_was_taken_ends_this_life_once() -> None:
    nodes, clock = Nodes(), StepClock()
    lost: list[None] = []
    lease = NodeLease(nodes, NodeAddress("n", "t"), clock)
    lease.on_lost = lambda: lost.append(None)
    await lease.start()
    nodes.is_taken = True
    clock.now += LEASE_MS
    loop = await parts.running(lease.run)
    waiting = await parts.running(lease.wait_valid)
    await parts.until(lambda: lost)
    assert not waiting.done(), "nothing is done in the name of a dead node"
    await parts.stop(loop, waiting)
    assert len(lost) == 1


async def test_the_reaper_hands_over_what_a_dead_node_owed() -> None:
    nodes, clock = Nodes(), StepClock()
    nodes.expired = [[7]]
    nodes.stranded = [StrandedDevice(1, "a", 3, 5, 9), StrandedDevice(2, "b", 4, 9, 9)]
    push, rows, outbox = Push([]), parts.ScriptedRows(), None
    outbox = parts.outbox(rows, clock)
    reaper = Reaper(nodes, OutboxRows(3), outbox, push, NodeAddress("n", "t", 42), Judge(), clock)
    loop = await parts.running(reaper.run)
    await parts.until(lambda: nodes.removed)
    await parts.stop(loop)
    assert push.owed == [Owed(1, "a", 9)]
    assert nodes.released == nodes.stranded
    assert rows.asked == [0], "its outbox rows are sent at once"
    assert nodes.removed == [7]


async def test_the_reaper_finds_what_a_removed_node_left_after_all() -> None:
    nodes, clock = Nodes(), StepClock()
    nodes.orphaned = [[3]]
    nodes.stranded = [StrandedDevice(1, "a", 3, 5, 9)]
    rows, push = parts.ScriptedRows(), Push([])
    outbox, address = parts.outbox(rows, clock), NodeAddress("n", "t", 42)
    reaper = Reaper(nodes, OutboxRows(2), outbox, push, address, Judge(), clock)
    loop = await parts.running(reaper.run)
    await parts.until(lambda: nodes.removed == [3])
    await parts.stop(loop)
    assert rows.asked == [0], "its outbox rows are sent at once"
    assert push.owed == [Owed(1, "a", 9)]
    assert nodes.released == nodes.stranded


async def test_after_an_outage_the_living_get_time_to_renew() -> None:
    nodes, clock = Nodes(), StepClock()
    nodes.fails = 1
    nodes.expired = [[7]]
    outbox, address = parts.outbox(clock=clock), NodeAddress("n", "t", 1)
    reaper = Reaper(nodes, OutboxRows(0), outbox, Push([]), address, Judge(), clock)
    loop = await parts.running(reaper.run)
    await parts.until(lambda: nodes.removed)
    await parts.stop(loop)
    assert clock.now - 1_000 > LEASE_MS / 1_000


async def test_nobody_is_judged_by_a_node_that_cannot_judge() -> None:
    nodes, clock, judge = Nodes(), StepClock(), Judge()
    nodes.expired = [[7]]
    judge.judges_until_ms = 0
    outbox, address = parts.outbox(clock=clock), NodeAddress("n", "t", 1)
    reaper = Reaper(nodes, OutboxRows(0), outbox, Push([]), address, judge, clock)
    loop = await parts.running(reaper.run)
    await parts.until(lambda: clock.now > 1_100)
    assert nodes.removed == []
    judge.judges_until_ms = 1 << 62
    await parts.until(lambda: nodes.removed == [7])
    await parts.stop(loop)


@pytest.mark.parametrize(
    "gap_ms",
    [15_000, 3_600_000, -3_600_000],
    ids=["PostgreSQL stopped", "its clock stepped on", "its clock stepped back"],
)
async def test_a_node_judges_others_after_a_whole_lease_of_renewals_in_time(gap_ms: int) -> None:
    nodes, clock = Nodes(), StepClock()
    lease = NodeLease(nodes, NodeAddress("n", "t"), clock)
    await lease.start()
    assert not lease.judges_until_ms

    async def renewals(count: int) -> list[bool]:
        judged = []
        for _ in range(count):
            nodes.now_ms += 3_000
            await lease._renew()
            judged.append(bool(lease.judges_until_ms))
        return judged

    assert await renewals(6) == [False, False, False, False, True, True]
    assert nodes.now_ms < lease.judges_until_ms < nodes.now_ms + 5_000
    nodes.now_ms += gap_ms
    assert await renewals(6) == [False, False, False, False, True, True]
    await lease.leave()
    assert not lease.judges_until_ms
