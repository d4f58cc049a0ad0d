"""A node with clearly more than its share asks old sessions to move, spread out; nobody else."""

from __future__ import annotations

import pytest

from chat_svc.node.hints import NodeAddress
from chat_svc.node.live_session import LiveSession
from chat_svc.node.rebalance import LOOK_SECONDS, MIN_SURPLUS, SPREAD_LOOKS, Rebalance
from chat_svc.node.sessions import Sessions
from chatmesh.runtime.listener import PUBLIC_LIMITS
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1.session_pb2 import GoingAway
from tests.chat_node import parts
from tests.chat_node.parts import StepClock

AGE_SECONDS = 60.0


class Rows:
    """Other nodes and their sessions; may be away."""

    def __init__(self, nodes: int, elsewhere: int) -> None:
        self.nodes = nodes
        self.elsewhere = elsewhere
        self.said: list[tuple[int, int]] = []
        self.fails = 0

    async def share(self, node_id: int, sessions: int) -> tuple[int, int]:
        self.said.append((node_id, sessions))
        if len(self.said) <= self.fails:
            raise ConnectionError
        return self.nodes, sessions + self.elsewhere


class Bench:
    """A node with so many sessions, all older than the least age."""

    def __init__(self, count: int, rows: Rows, *, age: float = AGE_SECONDS) -> None:
        self.rows, self.clock, self.sessions = rows, StepClock(), Sessions()
        self.leaving = False
        self.all = [self.add(number) for number in range(1, count + 1)]
        self.rebalance = Rebalance(
            rows,
            NodeAddress("n", "t", 7),
            self.sessions,
            self.clock,
            min_age_seconds=age,
            is_leaving=lambda: self.leaving,
        )
        self.clock.now += AGE_SECONDS

    def add(self, account: int) -> LiveSession:
        """One more session, of this age."""
        session = parts.live_session(account, clock=self.clock)
        self.sessions.add(session)
        return session

    async def look(self, times: int) -> list[int]:
        """Look so often; accounts of those that were asked, in order."""
        before = len(self.rows.said)
        loop = await parts.running(self.rebalance.run)
        await parts.until(lambda: len(self.rows.said) >= before + times)
        await parts.until(lambda: True)
        await parts.stop(loop)
        return [session.account for session in self.all if advice_of(session) is not None]


def advice_of(session: LiveSession) -> GoingAway | None:
    """What the session would tell its client."""
    frames = parts.drain(session)
    return next((frame.going_away[0] for frame in frames if frame.going_away), None)


@pytest.mark.parametrize(
    ("mine", "nodes", "elsewhere"),
    [(100, 1, 0), (100, 2, 100), (100, 2, 70), (MIN_SURPLUS + 5, 2, 0), (0, 3, 900)],
    ids=["alone", "equal", "little more", "few", "empty"],
)
async def test_a_fair_share_moves_nobody(mine: int, nodes: int, elsewhere: int) -> None:
    bench = Bench(mine, Rows(nodes, elsewhere))
    assert await bench.look(3) == []
    assert bench.rows.said[:3] == [(7, mine)] * 3, "what it holds is said all the same"


async def test_the_oldest_are_asked_first_and_a_part_at_a_time() -> None:
    bench = Bench(120, Rows(2, 0))  # a new node came: its share is 60, 72 are not too many
    asked = await bench.look(1)
    part = -(-48 // SPREAD_LOOKS)
    assert asked == list(range(1, part + 1))
    again = await bench.look(1)
    assert again == list(range(part + 1, 2 * part + 1)), "nobody is asked twice"


async def test_they_are_told_why_and_each_its_own_moment() -> None:
    bench = Bench(1_200, Rows(2, 0))
    loop = await parts.running(bench.rebalance.run)
    await parts.until(lambda: len(bench.rows.said) >= 2)
    await parts.stop(loop)
    advice = [given for session in bench.all if (given := advice_of(session)) is not None]
    assert len(advice) >= 80
    assert {given.reason for given in advice} == {GoingAway.REASON_REBALANCED}
    waits = {given.reconnect_after_ms for given in advice}
    assert len(waits) > len(advice) / 2
    assert 0 <= min(waits) <= max(waits) <= LOOK_SECONDS * 1_000


async def test_young_sessions_are_left_alone() -> None:
    bench = Bench(0, Rows(2, 0))
    bench.all = [bench.add(number) for number in range(1, 101)]  # as after a reconnect
    assert await bench.look(1) == []


async def test_it_can_be_switched_off_and_leaves_a_drain_alone() -> None:
    assert await Bench(200, Rows(2, 0), age=0).look(3) == []
    bench = Bench(200, Rows(2, 0))
    bench.leaving = True
    assert await bench.look(3) == []


async def test_a_store_that_is_away_moves_nobody() -> None:
    bench = Bench(200, Rows(2, 0))
    bench.rows.fails = 2
    assert await bench.look(2) == []
    assert await bench.look(1) != []


async def test_by_age_alone_every_session_moves_before_its_connection_is_cut() -> None:
    clock = StepClock()
    sessions = [parts.live_session(number, clock=clock) for number in range(1, 101)]
    asked: dict[int, float] = {}
    for minute in range(1, 46):
        clock.now = 1_000 + 60 * minute
        for session in sessions:
            session.on_frame(pb.ClientFrame(ping=pb.Ping(nonce=1)))
            session.tick(clock.now, clock.wall_ms())
            if (advice := advice_of(session)) is not None:
                assert advice.reason == GoingAway.REASON_CONNECTION_AGE
                asked.setdefault(session.account, minute)
    assert len(asked) == 100
    assert len(set(asked.values())) > 2, "not all in the same minute"
    least_age_minutes = 0.9 * PUBLIC_LIMITS.max_connection_age_ms / 60_000
    assert max(asked.values()) < least_age_minutes
