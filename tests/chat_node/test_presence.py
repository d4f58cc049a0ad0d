"""Routes and wishes told in batches, and again when asked."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from chat_svc.node import presence
from chat_svc.node.hints import NodeAddress
from chat_svc.node.presence import PresenceLink
from chat_svc.node.sessions import Sessions
from chat_svc.store.presence import WishChange, WishRow
from chatmesh import errors
from chatmesh.digest import mix_session
from chatmesh.mesh.v1.presence_pb2 import (
    AttachRequest,
    AttachResponse,
    KeepAliveRequest,
    KeepAliveResponse,
    SessionRecord,
)
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.readiness import Readiness
from chatmesh.v1 import types_pb2
from tests.chat_node import parts
from tests.chat_node.parts import StepClock

ONLINE = types_pb2.PRESENCE_STATE_ONLINE
OFFLINE = types_pb2.PRESENCE_STATE_OFFLINE


class Stream:
    """One request stream's answers: a function of the request."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer
        self.requests: list[Any] = []
        self.fails: list[Fault] = []
        self.gate: asyncio.Event | None = None

    async def call(self, request: Any, *, timeout_seconds: float) -> Any:
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.fails:
            raise self.fails.pop(0)
        self.requests.append(request)
        return self.answer(request)


class Wishes:
    """What is kept of users' wishes."""

    def __init__(self) -> None:
        self.rows: dict[int, WishRow] = {}
        self.written: list[WishChange] = []
        self.fails = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def _may_fail(self) -> None:
        if self.fails:
            self.fails -= 1
            self.meanwhile()
            raise ConnectionError("away")

    async def write_wishes(self, changes: Sequence[WishChange]) -> None:
        self._may_fail()
        self.written += changes
        for one in changes:
            self.rows[one.account] = WishRow(
                one.account, one.state, one.text or "", one.until_ms, len(self.written)
            )

    async def wishes_of(self, accounts: Iterable[int]) -> dict[int, WishRow]:
        self._may_fail()
        return {account: self.rows[account] for account in accounts if account in self.rows}


class Bench:
    """A presence link whose streams are scripted."""

    def __init__(self) -> None:
        self.clock, self.sessions, self.readiness = StepClock(), Sessions(), Readiness()
        self.reattach: list[bool] = []
        self.superseded: list[SessionRecord] = []
        self.wishes = Wishes()
        self.certain = 0
        self.link = PresenceLink(
            lambda: None,
            lambda: None,
            self.wishes,
            self.sessions,
            NodeAddress("n", "127.0.0.1:1", 7),
            self.readiness.require("presence"),
            self.clock,
        )
        on_end = self.link.keep_alive._on_end
        assert on_end is not None
        self.stream_ends = on_end
        self.beats = Stream(self._beat)
        self.routes = Stream(lambda _: AttachResponse(superseded=self.superseded))
        self.link.keep_alive = self.beats  # type: ignore[assignment]
        self.link.attach_stream = self.routes  # type: ignore[assignment]

        def on_certain() -> None:
            self.certain += 1

        self.link.on_certain = on_certain

    def _beat(self, _: KeepAliveRequest) -> KeepAliveResponse:
        return KeepAliveResponse(reattach=self.reattach.pop(0) if self.reattach else False)

    def told(self) -> list[AttachRequest]:
        return list(self.routes.requests)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_a_beat_tells_count_and_digest(bench: Bench) -> None:
    for account, number in ((2, 5), (3, 6)):
        bench.sessions.add(parts.live_session(account, session_no=number))
    loop = await parts.running(bench.link.beat)
    await parts.until(lambda: len(bench.beats.requests) >= 3)
    await parts.stop(loop)
    beat = bench.beats.requests[0]
    assert (beat.node.node_id, beat.node.target, beat.session_count) == (7, "127.0.0.1:1", 2)
    assert beat.session_digest == mix_session(2, 5) ^ mix_session(3, 6)
    assert bench.certain == 1
    assert bench.readiness.missing() == {}


async def test_presence_away_and_back_compares_sessions(bench: Bench) -> None:
    loop = await parts.running(bench.link.beat)
    await parts.until(lambda: bench.certain == 1)
    bench.beats.fails = [errors.PEER_TIMEOUT(), errors.PEER_TIMEOUT()]
    await parts.until(lambda: not bench.link.is_certain)
    assert list(bench.readiness.missing()) == ["presence"]
    await parts.until(lambda: bench.certain == 2)
    await parts.stop(loop)


@pytest.mark.parametrize(("cause", "certain"), [("UNAVAILABLE", False), ("age", True)])
async def test_the_end_of_the_lease_stream_is_noticed_before_the_next_beat(
    cause: str, certain: bool
) -> None:
    bench = Bench()
    bench.link.is_certain = True
    bench.stream_ends(cause)
    assert bench.link.is_certain is certain
    assert "presence" in bench.readiness.missing(), "readiness is the beats' business"


async def test_routes_gather_while_one_request_runs(bench: Bench) -> None:
    bench.link.is_certain = True
    loop = await parts.running(bench.link.run_routes)
    first = parts.live_session(2, session_no=5)
    assert await bench.link.attach(first)
    bench.routes.gate = asyncio.Event()
    others = [parts.live_session(n, session_no=n) for n in range(3, 8)]
    attaching = [asyncio.create_task(bench.link.attach(session)) for session in others]
    bench.link.detach(first)
    await asyncio.sleep(0)
    bench.routes.gate.set()
    assert all(await asyncio.gather(*attaching))
    await parts.stop(loop)
    records = [r.account_id for request in bench.told() for r in request.attached]
    assert sorted(records) == [2, 3, 4, 5, 6, 7]
    assert [r.account_id for request in bench.told() for r in request.detached] == [2]
    assert len(bench.told()) <= 4


async def test_what_was_not_taken_is_told_again(bench: Bench) -> None:
    bench.link.is_certain = True
    bench.routes.fails = [errors.NODE_UNKNOWN(), errors.NODE_UNKNOWN()]
    loop = await parts.running(bench.link.run_routes)
    session = parts.live_session(2, session_no=5)
    assert await bench.link.attach(session)
    bench.routes.fails = [errors.PEER_TIMEOUT()]
    bench.link.detach(session)
    await parts.until(lambda: any(request.detached for request in bench.told()))
    await parts.stop(loop)


async def test_nobody_waits_for_presence_that_is_away(bench: Bench) -> None:
    session = parts.live_session(2, session_no=5)
    assert not await bench.link.attach(session)
    bench.link.is_certain = True
    loop = await parts.running(bench.link.run_routes)
    await parts.until(bench.told)
    await parts.stop(loop)


@pytest.mark.parametrize("is_certain", [True, False])
async def test_a_route_that_became_known_late_compares_sessions(
    bench: Bench, is_certain: bool
) -> None:
    bench.link.is_certain = is_certain
    session = parts.live_session(2, session_no=5)
    assert not await bench.link.attach(session)  # nobody tells routes yet
    loop = await parts.running(bench.link.run_routes)
    await parts.until(bench.told)
    await parts.until(lambda: bench.certain == 1)
    bench.link.changed(session)
    await parts.until(lambda: len(bench.told()) == 2)
    await parts.stop(loop)
    assert bench.certain == 1, "once"


async def test_ends_that_presence_was_not_told_of_are_bounded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "MAX_DETACHED", 10)
    for number in range(25):
        bench.link.detach(parts.live_session(number + 1))
    assert len(bench.link._detached) <= 10
    loop = await parts.running(bench.link.run_routes)
    await parts.until(lambda: any(request.full_done for request in bench.told()))
    await parts.stop(loop)


async def test_all_sessions_are_told_again_when_asked(bench: Bench) -> None:
    for account in range(1, 1_503):
        bench.sessions.add(parts.live_session(account))
    bench.reattach = [True]
    loops = [await parts.running(bench.link.beat), await parts.running(bench.link.run_routes)]
    await parts.until(lambda: any(request.full_done for request in bench.told()))
    await parts.stop(*loops)
    full = [request for request in bench.told() if request.full]
    assert [len(request.attached) for request in full] == [1_000, 502]
    assert [request.full_done for request in full] == [False, True]
    assert bench.certain == 2, "sessions are compared after their routes are known"


async def test_superseded_sessions_are_told(bench: Bench) -> None:
    seen: list[int] = []
    bench.link.is_certain = True
    bench.link.on_superseded = lambda records: seen.extend(r.account_id for r in records)
    bench.superseded = [SessionRecord(account_id=2, device_id="phone", session_no=9)]
    loop = await parts.running(bench.link.run_routes)
    await bench.link.attach(parts.live_session(2))
    await parts.stop(loop)
    assert seen == [2]


INVISIBLE = types_pb2.PRESENCE_STATE_INVISIBLE


async def test_wishes_of_one_user_are_written_as_one_and_then_told(bench: Bench) -> None:
    bench.link.wish(2, INVISIBLE, None, 0)
    bench.link.wish(2, types_pb2.PRESENCE_STATE_UNSPECIFIED, "lunch", 5)
    bench.wishes.fails = 1
    loops = [await parts.running(bench.link.run_wishes), await parts.running(bench.link.run_routes)]
    await parts.until(bench.told)
    await parts.stop(*loops)
    assert bench.wishes.written == [WishChange(2, INVISIBLE, "lunch", 5)]
    ((wish,),) = [request.wishes for request in bench.told()]
    assert (wish.account_id, wish.state, wish.wish_no) == (2, INVISIBLE, 1)
    assert (wish.status_text, wish.status_until_ms) == ("lunch", 5)


async def test_a_wish_chosen_while_the_store_is_away_is_not_undone_by_the_older_one(
    bench: Bench,
) -> None:
    bench.link.wish(2, INVISIBLE, "old", 0)
    bench.wishes.fails = 1
    bench.wishes.meanwhile = lambda: bench.link.wish(2, ONLINE, None, 0)
    loop = await parts.running(bench.link.run_wishes)
    await parts.until(lambda: bench.wishes.written)
    await parts.stop(loop)
    assert bench.wishes.written == [WishChange(2, ONLINE, "old", 0)]


async def test_wishes_go_with_the_routes_however_often_presence_forgets(bench: Bench) -> None:
    """After a loss of Redis all sessions are attached anew: no invisible user is seen for it."""
    bench.link.is_certain = True
    bench.wishes.rows = {2: WishRow(2, INVISIBLE, "", 0, 7)}
    for account in (2, 3):
        bench.sessions.add(parts.live_session(account))
    loop = await parts.running(bench.link.run_routes)
    for session in bench.sessions:
        await bench.link.attach(session)
    for _ in range(2):  # the second time PostgreSQL is away, too
        before = len(bench.told())
        bench.link._all_again = True
        bench.link._wake.set()
        await parts.until(lambda before=before: len(bench.told()) > before)  # type: ignore[misc]
        bench.wishes.fails = 100
    await parts.stop(loop)
    wished = [
        [(wish.account_id, wish.state, wish.wish_no) for wish in request.wishes]
        for request in bench.told()
        if any(record.account_id == 2 for record in request.attached)
    ]
    assert len(wished) == 3
    assert all(told == [(2, INVISIBLE, 7)] for told in wished)
    for session in list(bench.sessions):
        bench.sessions.remove(session)
        bench.link.detach(session)
    assert not bench.link._wishes, "nobody is remembered who is not here"
