"""Routes told in batches and again when asked; presence shown to those who may see it."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from chat_svc.core.effects import WatchChanged
from chat_svc.core.frames import PRESENCE
from chat_svc.node import presence
from chat_svc.node.counters import NodeCounters
from chat_svc.node.hints import NodeAddress
from chat_svc.node.presence import PresenceLink
from chat_svc.node.resolver import Resolver
from chat_svc.node.sessions import Sessions
from chat_svc.node.showing import MAX_WAITING_PIECES, Showing
from chat_svc.node.watching import Watching
from chat_svc.store.accounts import Privacy
from chat_svc.store.presence import WishChange, WishRow
from chatmesh import errors
from chatmesh.digest import mix_session, mix_version
from chatmesh.mesh.v1.presence_pb2 import (
    AttachRequest,
    AttachResponse,
    KeepAliveRequest,
    KeepAliveResponse,
    PresenceFact,
    SessionRecord,
    WatchResponse,
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


class Contacts:
    """Who knows whom."""

    def __init__(self) -> None:
        self.of: dict[int, list[int]] = {}
        self.members: dict[int, list[int]] = {}
        self.privacy_of: dict[int, Privacy] = {}

    async def contacts_of(self, accounts: Sequence[int], most: int) -> dict[int, list[int]]:
        return {account: self.of.get(account, [])[:most] for account in accounts}

    async def contact_pairs(self, pairs: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        return {(one, other) for one, other in pairs if other in self.of.get(one, [])}

    async def members_of(self, tenant_id: int, ids: Sequence[int]) -> dict[int, list[int]]:
        return {number: self.members[number] for number in ids if number in self.members}

    async def privacy(self, accounts: Sequence[int]) -> dict[int, Privacy]:
        return {a: self.privacy_of.get(a, Privacy(2, 2, 2, 2)) for a in accounts}


class Watched:
    """A Watching with contacts 1 (alice), 2 (bob) and 3 (carol)."""

    def __init__(self, *, per_second: int = 20_000, most_contacts: int = 5_000) -> None:
        self.contacts, self.sessions = Contacts(), Sessions()
        self.clock, self.counters = StepClock(), NodeCounters()
        accounts = parts.ScriptedAccounts()
        accounts.known = accounts.known | {f"u{n}": n for n in range(1_000, 15_000)}
        resolver = Resolver(
            accounts,  # type: ignore[arg-type]
            parts.ScriptedConversations(),  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            makes_unknown=False,
            makes_contacts=True,
        )
        self.showing = Showing(self.clock, self.counters, per_second)
        self.watching = Watching(
            lambda: None,
            NodeAddress("n", "t", 7),
            self.contacts,
            self.contacts,
            self.contacts,
            resolver,
            self.sessions,
            self.showing,
            self.clock,
            self.counters,
            most_contacts,
        )

    async def start(self, *sessions: Any) -> None:
        for session in sessions:
            self.sessions.add(session)
            self.watching.start(session)
        await self.settle()

    async def settle(self) -> None:
        loop = await parts.running(self.watching.run)
        await parts.until(lambda: not self.watching._refresh)
        await parts.stop(loop)

    def tell(self, account: int, version: int, state: Any = ONLINE, generation: int = 1) -> None:
        fact = PresenceFact(account_id=account, state=state, generation=generation, version=version)
        self.watching._on_response(WatchResponse(facts=[fact]))


def seen(session: Any) -> list[tuple[str, int]]:
    return [(p.user_id, p.state) for frame in parts.drain(session) for p in frame.presence]


async def test_contacts_are_watched_and_told() -> None:
    bench = Watched()
    bench.contacts.of = {2: [1]}
    bob, carol = parts.live_session(2), parts.live_session(3)
    await bench.start(bob, carol)
    assert bench.watching.stream._changes == {1: True, 2: True, 3: True}
    bench.tell(1, 5)
    assert (seen(bob), seen(carol)) == ([("alice", ONLINE)], [])
    bench.tell(1, 4, OFFLINE)
    assert seen(bob) == [], "an older fact is no news"
    bench.tell(1, 1, OFFLINE, generation=2)
    assert seen(bob) == [("alice", OFFLINE)], "a new generation begins anew"


async def test_a_contact_made_while_contacts_are_read_is_watched() -> None:
    bench = Watched()
    bob = parts.live_session(2)
    contacts_of = bench.contacts.contacts_of

    async def read_then_changed(accounts: Sequence[int], most: int) -> dict[int, list[int]]:
        found = await contacts_of(accounts, most)
        if not bench.contacts.of:
            bench.contacts.of = {2: [1]}
            bench.watching.refresh([2])
        return found

    bench.contacts.contacts_of = read_then_changed  # type: ignore[method-assign]
    await bench.start(bob)
    bench.tell(1, 1)
    assert seen(bob) == [("alice", ONLINE)]


async def test_privacy_is_applied_here() -> None:
    bench = Watched()
    bench.contacts.of = {2: [1]}
    bench.contacts.privacy_of = {1: Privacy(presence=1, last_seen=2, typing=2, read_receipts=2)}
    bob = parts.live_session(2)
    await bench.start(bob)
    bench.tell(1, 5)
    assert seen(bob) == [("alice", OFFLINE)]


async def test_a_second_session_is_told_from_memory_and_interest_is_counted() -> None:
    bench = Watched()
    bench.contacts.of = {2: [1]}
    phone, laptop = parts.live_session(2, "phone"), parts.live_session(2, "laptop", 2)
    await bench.start(phone)
    bench.tell(1, 5)
    await bench.start(laptop)
    assert ("alice", ONLINE) in seen(laptop)
    bench.watching.stream._changes.clear()
    bench.watching.stop(phone)
    assert bench.watching.stream._changes == {}
    bench.watching.stop(laptop)
    assert bench.watching.stream._changes == {1: False, 2: False}


async def test_who_is_no_contact_any_more_is_shown_offline() -> None:
    bench = Watched()
    bench.contacts.of = {2: [1]}
    bob = parts.live_session(2)
    await bench.start(bob)
    bench.tell(1, 5)
    seen(bob)
    bench.contacts.of = {}
    bench.watching.refresh([2])
    await bench.settle()
    assert seen(bob) == [("alice", OFFLINE)]
    bench.tell(1, 6)
    assert seen(bob) == []


async def test_two_differing_digests_ask_for_everything_again() -> None:
    bench = Watched()
    bench.contacts.of = {2: [1]}
    await bench.start(parts.live_session(2))
    bench.tell(1, 5)
    right = mix_version(1, 1, 5)
    for digest, asked in ((right, False), (7, False), (right, False), (7, False), (7, True)):
        bench.watching.stream._changes.clear()
        bench.watching._on_response(WatchResponse(digest=digest, has_digest=True))
        assert bool(bench.watching.stream._changes) is asked


async def test_who_is_named_is_told_again_and_strangers_are_not() -> None:
    bench = Watched()
    bench.contacts.of = {2: [1]}
    bob = parts.live_session(2)
    await bench.start(bob)
    bench.tell(1, 5)
    assert seen(bob) == [("alice", ONLINE)]
    bench.watching.asked(bob, WatchChanged(frozenset(["alice", "carol", "nobody"]), 0))
    await bench.settle()
    assert seen(bob) == [("alice", ONLINE)], "carol is no contact, nobody is nobody"
    assert bob.watched == {1, 2}
    await bench.settle()
    assert seen(bob) == [], "once"


async def test_who_asks_while_contacts_are_read_is_answered_too() -> None:
    bench = Watched()
    bench.contacts.of = {2: [1]}
    bob = parts.live_session(2)
    await bench.start(bob)
    bench.tell(1, 5)
    seen(bob)
    privacy = bench.contacts.privacy
    wanted = [WatchChanged(frozenset(["alice"]), 0)]

    async def read_while_asked(accounts: Sequence[int]) -> dict[int, Privacy]:
        if wanted:
            bench.watching.asked(bob, wanted.pop())
        return await privacy(accounts)

    bench.contacts.privacy = read_while_asked  # type: ignore[method-assign]
    bench.watching.refresh([2])
    await bench.settle()
    assert seen(bob) == [("alice", ONLINE)]


async def test_above_the_limit_of_contacts_the_open_conversation_is_watched() -> None:
    bench = Watched(most_contacts=1)
    bench.contacts.of = {2: [1, 3]}
    bob = parts.live_session(2)
    bob.sender = parts.sender(parts.Answers(), 2, "bob")
    await bench.start(bob)
    assert bob.watched == {1, 2}
    assert bench.counters.contacts_unwatched == 1
    bench.contacts.members = {500: [2, 3, 4], 600: [1, 3]}
    for number, watched in ((500, {1, 2, 3}), (600, {1, 2}), (0, {1, 2})):
        bench.watching.asked(bob, WatchChanged(frozenset(), number))
        await bench.settle()
        assert bob.watched == watched, "members who are contacts, of conversations one is in"
    bench.watching.stop(bob)
    assert (bench.watching._watchers, bench.watching._users, bench.watching._asked) == ({}, {}, {})


async def test_another_privacy_is_shown_at_once_to_all_who_watch_here() -> None:
    bench = Watched()
    bench.contacts.of = {2: [1], 3: [1]}
    bob, carol = parts.live_session(2), parts.live_session(3)
    await bench.start(bob, carol)
    bench.tell(1, 5)
    assert (seen(bob), seen(carol)) == ([("alice", ONLINE)], [("alice", ONLINE)])
    bench.contacts.privacy_of = {1: Privacy(presence=1, last_seen=2, typing=2, read_receipts=2)}
    bench.watching.refresh([2])  # it came by Bob
    await bench.settle()
    assert (seen(bob), seen(carol)) == ([("alice", OFFLINE)], [("alice", OFFLINE)])


async def test_a_storm_is_put_at_the_nodes_pace_the_newest_of_each_user_once() -> None:
    """400 sessions with the same 40 contacts, all of which flap 5 times."""
    bench = Watched(per_second=1_000)
    people = range(1_000, 1_040)
    bench.contacts.of = {account: list(people) for account in range(2_000, 2_400)}
    sessions = [parts.live_session(account, clock=bench.clock) for account in bench.contacts.of]
    await bench.start(*sessions)
    for session in sessions:
        session.machine.put(PRESENCE, b"", b"")  # its frame is taken below
        parts.drain(session)
    for version in range(1, 6):
        for account in people:
            bench.tell(account, version, ONLINE if version % 2 else OFFLINE)
    at_once, wanted = bench.counters.presence_shown, 400 * 40
    assert at_once <= 250, "the burst"
    assert bench.showing.backlog == wanted, "once each, however often they changed"
    began = bench.clock.now
    loop = await parts.running(bench.showing.run)
    while bench.showing.backlog:
        await asyncio.sleep(0)
        for session in sessions:
            session.take_frame()
    await parts.stop(loop)
    took = bench.clock.now - began
    assert bench.counters.presence_shown == at_once + wanted
    assert wanted / took <= 1_000 * 1.05
    assert all(session.machine.frames.keyed_dropped == 0 for session in sessions)


async def test_a_device_that_does_not_read_loses_no_friend() -> None:
    """5,000 contacts are all online: more than a session's frames hold."""
    bench = Watched(per_second=1_000_000)
    people = range(10_000, 15_000)
    bench.contacts.of = {2: list(people)}
    bob = parts.live_session(2, clock=bench.clock)
    await bench.start(bob)
    for account in people:
        bench.tell(account, 1)
    assert bob.machine.frames.waiting_presence == MAX_WAITING_PIECES
    assert bench.showing.backlog == 5_000 - MAX_WAITING_PIECES
    loop = await parts.running(bench.showing.run)
    told: dict[str, int] = {}
    while len(told) < 5_000:
        await asyncio.sleep(0)
        told |= dict(seen(bob))
    await parts.stop(loop)
    assert set(told.values()) == {ONLINE}
    assert bob.machine.frames.keyed_dropped == 0
    bench.tell(10_000, 2, OFFLINE)
    bench.watching.stop(bob)
    assert bench.showing.backlog == 0
