"""How a node leaves: in the order that `node.drain` writes down, whatever hangs on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chat_svc.core.batch import PendingSend
from chat_svc.node.drain import LEAVE_SHARE, MAX_SPREAD_SECONDS, SPREAD_SHARE, Drain
from chat_svc.node.live_session import LiveSession
from chat_svc.node.node import ChatNode
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1 import types_pb2
from tests.chat_core.builders import key
from tests.chat_node import parts
from tests.chat_node.parts import StepClock

GRACE_SECONDS = 20.0


class Step:
    """A step of the order; may take until it is let go."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        self.go = asyncio.Event()
        self.go.set()

    async def leave(self) -> None:
        self.log.append(self.name)
        await self.go.wait()

    wait_idle = leave


class Node:
    """The node behind the sessions: keeps what they offer, notes their ends."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.streams: set[LiveSession] = set()
        self.offered: list[PendingSend] = []

    def run(self, session: LiveSession, effect: Any) -> None:
        """Effects of the sessions."""
        self.offered += getattr(effect, "messages", ())

    def ended(self, session: LiveSession) -> None:
        """A stream is over."""
        self.streams.discard(session)
        self.log.append(f"{session.device_id} ended")

    def close_all(self, reason: pb.Closed.Reason.ValueType) -> None:
        """The node's own."""
        self.log.append(f"closed: {pb.Closed.Reason.Name(reason)}")
        ChatNode.close_all(self, reason)  # type: ignore[arg-type] # it has all that is used


class Bench:
    """A node with sessions, and everything that it gives up."""

    def __init__(self, *, grace_seconds: float = GRACE_SECONDS) -> None:
        self.log: list[str] = []
        self.clock = StepClock()
        self.node = Node(self.log)
        self.committer, self.farewell, self.presence, self.lease, self.streams = (
            Step(name, self.log)
            for name in ("sends answered", "farewells", "presence", "lease", "streams")
        )
        parts_of: Any = self
        self.drain = Drain(
            parts_of.node,
            parts_of.committer,
            parts_of.farewell,
            self.presence,
            self.lease,
            self.streams,
            self.clock,
            grace_seconds,
        )

    def session(self, device: str) -> LiveSession:
        """One that lives here."""
        made = parts.live_session(2, device, clock=self.clock, node=self.node)  # type: ignore[arg-type]
        self.node.streams.add(made)
        return made


def send() -> pb.ClientFrame:
    content = types_pb2.Content(text=types_pb2.TextContent(body="x"))
    message = types_pb2.OutgoingMessage(idempotency_key=key(1), to_user_id="bob", content=content)
    return pb.ClientFrame(send=pb.Send(messages=[message]))


async def test_a_node_leaves_in_the_written_order() -> None:
    bench = Bench()
    moves, stays = bench.session("moves"), bench.session("stays")
    bench.committer.go.clear()
    draining = await parts.running(bench.drain.run)
    await parts.until(lambda: moves.machine.frames and stays.machine.frames)
    for session in (moves, stays):
        (frame,) = parts.drain(session)
        assert frame.going_away[0].reason == pb.GoingAway.REASON_DRAINING
    stays.on_frame(send())
    assert len(bench.node.offered) == 1, "sessions go on meanwhile"
    moves.gone()
    await parts.until(lambda: "sends answered" in bench.log)
    assert bench.log == ["moves ended", "sends answered"]
    assert bench.clock.now - 1_000 >= GRACE_SECONDS * LEAVE_SHARE, "who stays has had time"
    stays.on_frame(send())
    assert len(bench.node.offered) == 1, "what is said now is said again elsewhere"
    assert parts.drain(stays) == [], "nobody is closed while sends are in flight"
    bench.committer.go.set()
    await parts.until(lambda: stays.machine.is_ended)
    (frame,) = parts.drain(stays)
    assert frame.closed[0].reason == pb.Closed.REASON_DRAINED
    assert frame.closed[0].reconnect == pb.Closed.RECONNECT_NOW
    stays.gone()
    await asyncio.wait((draining,))
    draining.result()
    assert bench.log == [
        "moves ended",
        "sends answered",
        "closed: REASON_DRAINED",
        "stays ended",
        "presence",
        "farewells",
        "lease",
        "streams",
    ]


async def test_an_empty_node_waits_for_nobody() -> None:
    bench = Bench()
    await bench.drain.run()
    assert bench.clock.now == 1_000
    assert bench.log == [
        "sends answered",
        "closed: REASON_DRAINED",
        "presence",
        "farewells",
        "lease",
        "streams",
    ]


async def test_the_lease_is_kept_until_nothing_is_owed() -> None:
    bench = Bench()
    bench.farewell.go.clear()
    draining = await parts.running(bench.drain.run)
    await parts.until(lambda: "farewells" in bench.log)
    for _ in range(100):
        await asyncio.sleep(0)
    assert bench.log[-1] == "farewells"
    bench.farewell.go.set()
    await asyncio.wait((draining,))
    assert bench.log[-2:] == ["lease", "streams"]


@pytest.mark.parametrize("grace_seconds", [1.0, 20.0, 600.0])
async def test_clients_are_asked_at_moments_of_their_own(grace_seconds: float) -> None:
    bench = Bench(grace_seconds=grace_seconds)
    sessions = [bench.session(f"d{number}") for number in range(100)]
    draining = await parts.running(bench.drain.run)
    await parts.until(lambda: all(session.machine.frames for session in sessions))
    waits = [parts.drain(session)[0].going_away[0].reconnect_after_ms for session in sessions]
    assert len(set(waits)) > 50
    most_ms = min(grace_seconds * SPREAD_SHARE, MAX_SPREAD_SECONDS) * 1_000
    assert most_ms / 2 < max(waits) <= most_ms, "and within the time that they have"
    await parts.stop(draining)


async def test_a_life_that_is_over_gives_up_nothing_in_its_name() -> None:
    bench = Bench()
    session = bench.session("phone")
    bench.drain.is_dead = True
    draining = await parts.running(bench.drain.run)
    await parts.until(lambda: session.machine.is_ended)
    session.gone()
    await asyncio.wait((draining,))
    assert bench.log == ["closed: REASON_UNAVAILABLE", "phone ended", "streams"]
