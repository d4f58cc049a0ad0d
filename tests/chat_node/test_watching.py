"""Presence shown to those who may see it: contacts, who is named, and storms at a pace."""

import asyncio
from collections.abc import Sequence
from typing import Any

from chat_svc.core.effects import WatchChanged
from chat_svc.core.frames import PRESENCE
from chat_svc.node.counters import NodeCounters
from chat_svc.node.hints import NodeAddress
from chat_svc.node.resolver import Resolver
from chat_svc.node.sessions import Sessions
from chat_svc.node.showing import MAX_WAITING_PIECES, Showing
from chat_svc.node.watching import Watching
from chat_svc.store.accounts import Privacy
from chatmesh.digest import mix_version
from chatmesh.mesh.v1.presence_pb2 import (
    PresenceFact,
    WatchResponse,
)
from chatmesh.v1 import types_pb2
from tests.chat_node import parts
from tests.chat_node.parts import StepClock

ONLINE = types_pb2.PRESENCE_STATE_ONLINE
OFFLINE = types_pb2.PRESENCE_STATE_OFFLINE
INVISIBLE = types_pb2.PRESENCE_STATE_INVISIBLE


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


async def test_what_an_invisible_user_does_is_no_frame_for_others() -> None:
    bench = Watched()
    bench.contacts.of = {2: [1]}
    bob, alice = parts.live_session(2), parts.live_session(1)
    await bench.start(bob, alice)
    bench.tell(1, 5, OFFLINE)
    assert (seen(bob), seen(alice)) == ([("alice", OFFLINE)], [("alice", OFFLINE)])
    bench.tell(1, 6, INVISIBLE)
    bench.tell(1, 7, OFFLINE)
    bench.tell(1, 8, INVISIBLE, generation=2)
    assert seen(bob) == [], "she came and went, and nobody was told"
    assert seen(alice) == [("alice", INVISIBLE)], "the newest of what her own devices are told"
    bench.tell(1, 9, ONLINE, generation=2)
    assert seen(bob) == [("alice", ONLINE)]


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
