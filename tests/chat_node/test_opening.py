"""How a session opens: under a lease that holds, counted once, the older one elsewhere ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chat_svc.core.effects import Open
from chat_svc.core.limits import Limits
from chat_svc.node.counters import NodeCounters
from chat_svc.node.farewell import Ended
from chat_svc.node.hints import NodeAddress
from chat_svc.node.live_session import LiveSession
from chat_svc.node.node import ChatNode
from chat_svc.node.opening import Opening, OpeningParts
from chat_svc.node.resolver import Resolver
from chat_svc.node.sessions import Sessions
from chat_svc.store.devices import OpenedSession
from chatmesh.runtime.trace import Tracer
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1.session_pb2 import Closed
from tests.chat_node import parts
from tests.chat_node.parts import StepClock

BOB = 2
ELSEWHERE = "127.0.0.1:9"


@dataclass
class Around:
    """All that an opening asks, as one object."""

    valid_after: int = 0
    """Renewals until the lease holds."""
    session_no: int = 5
    hurries: int = 0
    bound: list[int] = field(default_factory=list)
    told: list[tuple[str, list[str], int]] = field(default_factory=list)
    farewells: list[Ended] = field(default_factory=list)
    hangs_up: LiveSession | None = None
    """Ends while its route is made known."""

    @property
    def is_valid(self) -> bool:
        return self.hurries >= self.valid_after

    def hurry(self) -> None:
        self.hurries += 1

    async def open_session(self, account: int, *_: Any, **__: Any) -> OpenedSession:
        self.bound.append(account)
        return OpenedSession(
            session_no=self.session_no,
            previous_node_id=3,
            previous_node_target=ELSEWHERE,
            acked_seq=0,
            acked_id=0,
            start_seq=0,
            head_seq=0,
            min_seq=1,
            account_version=1,
            devices=1,
            cursor_ok=True,
        )

    async def unread_totals(self, account: int) -> tuple[int, int]:
        return 0, 0

    async def attach(self, session: LiveSession) -> None:
        if self.hangs_up is not None:
            self.hangs_up.gone()

    def start(self, session: LiveSession) -> None:
        """Watched."""

    def end_soon(
        self,
        target: str,
        account: int,
        device_ids: Sequence[str],
        reason: int,
        *,
        before_session_no: int = 0,
    ) -> None:
        assert (account, reason) == (BOB, Closed.REASON_REPLACED)
        self.told.append((target, list(device_ids), before_session_no))

    def say(self, ended: Ended) -> None:
        self.farewells.append(ended)


@dataclass
class Bench:
    """One session that says hello."""

    around: Around
    counters: NodeCounters
    session: LiveSession

    @property
    def closed(self) -> pb.Closed | None:
        """The last frame, if the session was refused."""
        frames = parts.drain(self.session)
        return next((frame.closed[0] for frame in frames if frame.closed), None)


async def opened(around: Around, *, hangs_up: bool = False) -> Bench:
    clock, counters, sessions = StepClock(), NodeCounters(), Sessions()
    resolver = Resolver(
        parts.ScriptedAccounts(),  # type: ignore[arg-type] # only what the resolver uses
        parts.ScriptedConversations(),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type] # no id is needed
        makes_unknown=False,
        makes_contacts=True,
    )
    asked: Any = around
    opening = Opening(
        OpeningParts(
            address=NodeAddress("n", "t", 7),
            lease=asked,
            limits=Limits(),
            devices=asked,
            conversations=asked,
            resolver=resolver,
            sessions=sessions,
            presence=asked,
            watching=asked,
            neighbours=asked,
            farewell=asked,
            resumed=lambda _account, _seq: None,
            clock=clock,
            counters=counters,
        )
    )
    stands_for_node: Any = SimpleNamespace(
        streams=set(),
        run=lambda _session, _effect: None,
        parts=SimpleNamespace(
            counters=counters,
            sessions=sessions,
            watching=SimpleNamespace(stop=lambda _session: None),
            presence=SimpleNamespace(detach=lambda _session: None),
            farewell=around,
        ),
    )
    stands_for_node.ended = lambda session: ChatNode.ended(stands_for_node, session)
    session = LiveSession(
        stands_for_node, parts.identity(), Limits(), clock, counters, Tracer("test")
    )
    if hangs_up:
        around.hangs_up = session
    session.on_frame(pb.ClientFrame(hello=pb.Hello(device_id="phone")))
    await opening.open(session, Open("phone", 1, "", None, 0, slim_echo=False))
    return Bench(around, counters, session)


async def test_no_device_is_bound_to_a_node_that_may_count_as_dead() -> None:
    bench = await opened(Around(valid_after=1_000))
    assert bench.around.bound == []
    assert bench.closed is not None
    assert bench.around.hurries > 0, "a renewal is asked for"
    assert bench.counters.sessions_opened == 0


async def test_a_lease_that_is_renewed_in_a_moment_is_waited_for() -> None:
    bench = await opened(Around(valid_after=2))
    assert bench.around.bound == [BOB]
    assert bench.closed is None
    assert bench.counters.sessions_opened == 1


async def test_the_other_node_is_told_which_sessions_are_older() -> None:
    bench = await opened(Around(session_no=5))
    assert bench.around.told == [(ELSEWHERE, ["phone"], 5)]


@pytest.mark.parametrize("hangs_up", [False, True])
async def test_as_many_sessions_end_as_were_opened(hangs_up: bool) -> None:
    bench = await opened(Around(), hangs_up=hangs_up)
    bench.session.gone()
    expected = 0 if hangs_up else 1
    assert (bench.counters.sessions_opened, bench.counters.sessions_ended) == (expected, expected)
    assert len(bench.around.farewells) == 1, "what it owes is seen to either way"


@pytest.mark.parametrize(("before", "ended"), [(0, 1), (4, 0), (5, 0), (6, 1)])
async def test_a_late_request_ends_no_newer_session(before: int, ended: int) -> None:
    sessions = Sessions()
    session = parts.live_session(BOB, "phone", 5)
    sessions.add(session)
    node = cast("ChatNode", SimpleNamespace(parts=SimpleNamespace(sessions=sessions)))
    count = ChatNode.end_sessions(
        node, BOB, ["phone"], Closed.REASON_REPLACED, before_session_no=before
    )
    assert count == ended
    assert session.machine.is_ended is bool(ended)
