"""Marks: gathered, monotonic, told to who may see them."""

from collections.abc import Collection, Mapping, Sequence

import pytest

from chat_svc.node.counters import NodeCounters
from chat_svc.node.hints import NodeAddress
from chat_svc.node.receipt_telling import ReceiptTelling
from chat_svc.node.receipts import Receipts
from chat_svc.node.resolver import Resolver
from chat_svc.node.sessions import Sessions
from chat_svc.node.signals import Signals
from chat_svc.store.devices import Head
from chat_svc.store.receipts import ChangedMark, Mark, Tally, Viewers
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
        self.said_by: list[int] = []
        self.hides: set[int] = set()
        self.resumed: list[Mark] = []
        self.fails = 0
        self.reads = self.counted = 0

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
                1 if mark.conversation == DIRECT else 2,
                self.member_count,
                1,
                mark.delivered_conversation_seq,
            )
            for mark in marks
        ]

    async def resumed_marks(self, cursors: Sequence[tuple[int, int]]) -> list[Mark]:
        return [mark for mark in self.resumed if (mark.account, 9) in cursors]

    async def receipt_viewers(self, marks: Sequence[ChangedMark]) -> Viewers:
        return {
            (mark.conversation, mark.account): [
                account
                for account in self.members[mark.conversation]
                if account != mark.account and not {account, mark.account} & self.hides
            ]
            for mark in marks
        }

    async def senders(self, marks: Sequence[ChangedMark]) -> Viewers:
        return {(mark.conversation, mark.account): self.said_by for mark in marks}

    async def tallies(self, ranges: Sequence[tuple[int, int, int]]) -> list[Tally]:
        return [
            Tally(conversation, sender, up_to, 2, 7, 3)
            for conversation, _, up_to in ranges
            for sender in self.said_by
        ]

    async def members_of(self, tenant_id: int, ids: Sequence[int]) -> dict[int, list[int]]:
        self.reads += 1
        return {number: self.members[number] for number in ids}

    async def sees_typing(self, members: Mapping[int, Collection[int]]) -> dict[int, set[int]]:
        return {
            one: {other for other in others if other != one and (one, other) not in self.hidden}
            for one, others in members.items()
        }

    async def unread_totals_of(self, accounts: Sequence[int]) -> dict[int, tuple[int, int]]:
        self.counted += 1
        return dict.fromkeys(accounts, (4, 1))

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
            self.store,
            self.store,
            ReceiptTelling(self.store, self.store, self.store, resolver, signals),
            self.store,
            signals,
            clock,
            counters,
        )

    async def settle(self) -> dict[int, list[tuple[str, int, int]]]:
        """Run until everything is told; receipts per account."""
        loop = await parts.running(self.receipts.run)
        receipts = self.receipts
        await parts.until(lambda: not (receipts._waiting or receipts._typed or receipts._resumed))
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
        bench.receipts.delivered(BOB, {DIRECT: seq})
    bench.receipts.read(BOB, DIRECT, 2)
    bench.receipts.read(BOB, DIRECT, 1)
    told = await bench.settle()
    assert bench.store.written == [Mark(DIRECT, BOB, 2, 5)]
    assert told[ALICE] == [("bob", 5, 2)]
    assert told[BOB] == told[CAROL] == []


async def test_in_a_small_group_senders_learn_what_arrived_and_all_what_was_read(
    bench: Bench,
) -> None:
    bench.store.said_by = [ALICE]
    bench.receipts.delivered(BOB, {GROUP: 5})
    assert await bench.settle() == {ALICE: [("bob", 5, 0)], BOB: [], CAROL: []}
    bench.receipts.delivered(BOB, {GROUP: 6})
    bench.receipts.read(BOB, GROUP, 4)
    assert await bench.settle() == {ALICE: [("bob", 6, 4)], BOB: [], CAROL: [("bob", 0, 4)]}


async def test_in_a_large_group_senders_learn_how_many(bench: Bench) -> None:
    bench.store.member_count = 21
    bench.store.said_by = [CAROL]
    bench.receipts.delivered(BOB, {GROUP: 6})
    loop = await parts.running(bench.receipts.run)
    await parts.until(lambda: bench.sessions[CAROL].machine.frames)
    await parts.stop(loop)
    told = [r for frame in parts.drain(bench.sessions[CAROL]) for r in frame.receipts]
    assert [
        (r.user_id, r.delivered_conversation_seq, r.read_message_no, r.member_count) for r in told
    ] == [("", 6, 0, 7), ("", 0, 2, 3)]
    assert parts.drain(bench.sessions[ALICE]) == []


async def test_who_hides_receipts_is_not_told_of_and_sees_none(bench: Bench) -> None:
    bench.store.said_by = [ALICE, CAROL]
    bench.store.hides = {CAROL}
    bench.receipts.read(BOB, GROUP, 4)
    assert await bench.settle() == {ALICE: [("bob", 0, 4)], BOB: [], CAROL: []}
    bench.store.hides = {BOB}
    bench.receipts.read(BOB, GROUP, 5)
    bench.receipts.delivered(BOB, {DIRECT: 5})
    assert await bench.settle() == {ALICE: [], BOB: [], CAROL: []}


async def test_what_lies_before_a_resumed_cursor_was_delivered(bench: Bench) -> None:
    bench.store.resumed = [Mark(DIRECT, BOB, 0, 8), Mark(DIRECT, ALICE, 0, 3)]
    bench.receipts.resumed(BOB, 9)
    bench.receipts.resumed(BOB, 4)
    bench.receipts.resumed(CAROL, 0)
    told = await bench.settle()
    assert bench.store.written == [Mark(DIRECT, BOB, 0, 8)]
    assert told == {ALICE: [("bob", 8, 0)], BOB: [], CAROL: []}


async def test_a_read_mark_tells_the_readers_own_devices(bench: Bench) -> None:
    bench.receipts.read(BOB, DIRECT, 2)
    loop = await parts.running(bench.receipts.run)
    await parts.until(lambda: bench.sessions[BOB].machine.frames)
    await parts.stop(loop)
    (frame,) = parts.drain(bench.sessions[BOB])
    (pong,) = frame.pong
    assert (pong.account_version, pong.unread, pong.mentions, pong.nonce) == (7, 4, 1, 0)


async def test_many_readers_are_counted_together(bench: Bench) -> None:
    for reader in (ALICE, BOB, CAROL):
        bench.receipts.read(reader, DIRECT, 2)
    await bench.settle()
    assert bench.store.counted == 1


async def test_a_store_that_is_away_loses_no_mark(bench: Bench) -> None:
    bench.store.fails = 2
    bench.receipts.delivered(BOB, {DIRECT: 5})
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
    bench.receipts.read(BOB, 1 << 63, 1)
    bench.receipts.read(BOB, DIRECT, 1 << 63)
    bench.receipts.typing(1, BOB, "bob", 1 << 63, active=True)
    assert bench.receipts._waiting == {}
    assert bench.receipts._typed == {}
