"""Marks: gathered, monotonic, told to who may see them."""

from collections.abc import Collection, Mapping, Sequence

import pytest

from chat_svc.node.counters import NodeCounters
from chat_svc.node.hints import NodeAddress
from chat_svc.node.receipts import Receipts
from chat_svc.node.resolver import Resolver
from chat_svc.node.sessions import Sessions
from chat_svc.node.signals import Signals
from chat_svc.store.devices import Head
from chat_svc.store.receipts import ChangedMark, Mark
from tests.chat_node import parts
from tests.chat_node.parts import StepClock

DIRECT, GROUP = 102, 500
ALICE, BOB, CAROL = 1, 2, 3


class Store:
    """Marks and members."""

    def __init__(self) -> None:
        self.written: list[Mark] = []
        self.members = {DIRECT: [ALICE, BOB], GROUP: [ALICE, BOB, CAROL]}
        self.member_count = 3
        self.hidden: set[tuple[int, int]] = set()
        """(who types, who may not see it)."""
        self.fails = 0
        self.reads = 0

    async def write_marks(self, marks: Sequence[Mark]) -> list[ChangedMark]:
        if self.fails:
            self.fails -= 1
            raise ConnectionError
        self.written += marks
        return [
            ChangedMark(
                mark.conversation,
                mark.account,
                mark.read_message_no,
                mark.delivered_conversation_seq,
                mark.read_message_no > 0,
                mark.delivered_conversation_seq > 0,
                2,
                self.member_count,
            )
            for mark in marks
        ]

    async def members_of(self, tenant_id: int, ids: Sequence[int]) -> dict[int, list[int]]:
        self.reads += 1
        return {number: self.members[number] for number in ids}

    async def sees_typing(self, members: Mapping[int, Collection[int]]) -> dict[int, set[int]]:
        return {
            one: {other for other in others if other != one and (one, other) not in self.hidden}
            for one, others in members.items()
        }

    async def unread_totals(self, account: int) -> tuple[int, int]:
        return 4, 1

    async def heads(self, accounts: Sequence[int]) -> dict[int, Head]:
        return {account: Head(9, 9, 1, 7) for account in accounts}


class Bench:
    """Receipts, and a session of each of the three."""

    def __init__(self) -> None:
        self.store, clock, counters = Store(), StepClock(), NodeCounters()
        sessions = Sessions()
        self.sessions = {n: parts.live_session(n, clock=clock) for n in (ALICE, BOB, CAROL)}
        for session in self.sessions.values():
            sessions.add(session)
        resolver = Resolver(
            parts.ScriptedAccounts(),  # type: ignore[arg-type]
            parts.ScriptedConversations(),  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            makes_unknown=False,
            makes_contacts=True,
        )
        self.outbox = parts.outbox(clock=clock)
        signals = Signals(
            sessions, self.outbox, parts.signer(), NodeAddress("n", "t", 7), clock, counters
        )
        self.receipts = Receipts(
            self.store, self.store, self.store, self.store, resolver, signals, clock, counters
        )

    async def settle(self) -> dict[int, list[tuple[str, int, int]]]:
        """Run until everything is told; receipts per account."""
        loop = await parts.running(self.receipts.run)
        await parts.until(lambda: not self.receipts._waiting and not self.receipts._typed)
        for _ in range(50):
            await parts.until(lambda: True)
            await self.receipts._clock.sleep(0)
        await parts.stop(loop)
        return {
            account: [
                (r.user_id, r.delivered_conversation_seq, r.read_message_no)
                for frame in parts.drain(session)
                for r in frame.receipts
            ]
            for account, session in self.sessions.items()
        }


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_marks_of_one_member_are_written_once_with_the_highest(bench: Bench) -> None:
    for seq in (3, 5, 4):
        bench.receipts.delivered(1, BOB, {DIRECT: seq})
    bench.receipts.read(1, BOB, DIRECT, 2)
    bench.receipts.read(1, BOB, DIRECT, 1)
    told = await bench.settle()
    assert bench.store.written == [Mark(DIRECT, BOB, 2, 5)]
    assert told[ALICE] == [("bob", 5, 2)]
    assert told[BOB] == told[CAROL] == []


async def test_a_small_group_sees_all_and_a_large_one_nothing_yet(bench: Bench) -> None:
    bench.receipts.delivered(1, BOB, {GROUP: 5})
    told = await bench.settle()
    assert told == {ALICE: [("bob", 5, 0)], BOB: [], CAROL: [("bob", 5, 0)]}
    bench.store.member_count = 21
    bench.receipts.delivered(1, BOB, {GROUP: 6})
    assert await bench.settle() == {ALICE: [], BOB: [], CAROL: []}


async def test_a_read_mark_tells_the_readers_own_devices(bench: Bench) -> None:
    bench.receipts.read(1, BOB, DIRECT, 2)
    loop = await parts.running(bench.receipts.run)
    await parts.until(lambda: bench.sessions[BOB].machine.frames)
    await parts.stop(loop)
    (frame,) = parts.drain(bench.sessions[BOB])
    (pong,) = frame.pong
    assert (pong.account_version, pong.unread, pong.mentions, pong.nonce) == (7, 4, 1, 0)


async def test_a_store_that_is_away_loses_no_mark(bench: Bench) -> None:
    bench.store.fails = 2
    bench.receipts.delivered(1, BOB, {DIRECT: 5})
    await bench.settle()
    assert bench.store.written == [Mark(DIRECT, BOB, 0, 5)]


async def test_only_members_type_and_the_others_see_it(bench: Bench) -> None:
    bench.receipts.typing(1, BOB, "bob", GROUP, active=True)
    bench.store.members[DIRECT] = [ALICE, CAROL]
    bench.receipts.typing(1, BOB, "bob", DIRECT, active=True)  # not a member of that one
    loop = await parts.running(bench.receipts.run)
    await parts.until(lambda: bench.sessions[CAROL].machine.frames)
    await parts.stop(loop)
    typed = {
        account: [t.conversation_id for frame in parts.drain(session) for t in frame.typing]
        for account, session in bench.sessions.items()
    }
    assert typed == {ALICE: [GROUP], BOB: [], CAROL: [GROUP]}


async def test_who_may_not_see_it_sees_nobody_type(bench: Bench) -> None:
    bench.store.hidden = {(BOB, ALICE)}
    bench.receipts.typing(1, BOB, "bob", GROUP, active=True)
    loop = await parts.running(bench.receipts.run)
    await parts.until(lambda: bench.sessions[CAROL].machine.frames)
    await parts.stop(loop)
    typed = {
        account: [t.user_id for frame in parts.drain(session) for t in frame.typing]
        for account, session in bench.sessions.items()
    }
    assert typed == {ALICE: [], BOB: [], CAROL: ["bob"]}


async def test_numbers_beyond_any_are_ignored(bench: Bench) -> None:
    bench.receipts.read(1, BOB, 1 << 63, 1)
    bench.receipts.read(1, BOB, DIRECT, 1 << 63)
    bench.receipts.typing(1, BOB, "bob", 1 << 63, active=True)
    assert bench.receipts._waiting == {}
    assert bench.receipts._typed == {}
