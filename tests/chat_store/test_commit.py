"""The commit function on a real PostgreSQL: numbers, keys, checks, rows that go with a message."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from chat_svc.store.commit import CommitRow, CommitStatus, CommitStore, EventFlag
from tests.chat_store.world import MESSAGE, World, uuid7


async def test_positions_follow_the_order_of_the_batch(world: World) -> None:
    users = await world.users(6)
    hub = users[0]
    conversations = [await world.direct(hub, other) for other in users[1:]]
    rows = [
        world.row((hub, other)[n % 2], conversation, f"{n}")
        for n in range(12)
        for other, conversation in zip(users[1:], conversations, strict=True)
    ]
    outcomes = await world.commit(*rows)

    assert {outcome.status for outcome in outcomes} == {CommitStatus.ACCEPTED}
    for conversation in conversations:
        mine = [
            o for row, o in zip(rows, outcomes, strict=True) if row.conversation == conversation
        ]
        assert [o.conversation_seq for o in mine] == list(range(1, 13))
        assert [o.message_no for o in mine] == list(range(1, 13))
        assert len({o.created_at_ms for o in mine}) == 1
    hub_seqs = [r.timeline_seq for o in outcomes for r in o.recipients if r.account == hub.id]
    assert hub_seqs == list(range(1, 61))
    for row, outcome in zip(rows, outcomes, strict=True):
        assert outcome.message_id == row.message_id
        assert outcome.conversation == row.conversation
        assert len(outcome.recipients) == 2
        assert outcome.sender_timeline_seq == next(
            r.timeline_seq for r in outcome.recipients if r.account == row.sender
        )
    assert await world.timeline(hub) == [
        (seq, row.conversation, outcome.conversation_seq)
        for seq, (row, outcome) in enumerate(zip(rows, outcomes, strict=True), 1)
    ]
    await world.assert_contiguous()


async def test_created_at_never_falls_within_a_conversation(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    ahead = await world.ask("SELECT chat.now_ms() + 3600000")
    await world.ask(
        "UPDATE chat.conversation SET last_created_at_ms = %s WHERE id = %s",
        ahead[0][0],
        conversation,
    )
    (alone,) = await world.commit(world.row(one, conversation))
    batch = await world.commit(world.row(two, conversation), world.row(one, conversation))
    assert [o.created_at_ms for o in (alone, *batch)] == [ahead[0][0]] * 3


@pytest.mark.parametrize("batch", [1, 3])
async def test_what_is_refused_takes_no_number(world: World, batch: int) -> None:
    one, two, stranger = await world.users(3)
    (foreign,) = await world.users(1, tenant="other")
    conversation = await world.direct(one, two)

    async def commit(row: CommitRow) -> CommitStatus:
        filling = [world.row(one, conversation) for _ in range(batch - 1)]
        return (await world.commit(row, *filling))[0].status

    spoofed = world.row(foreign, conversation)
    spoofed.tenant_id = one.tenant_id
    for row in (
        world.row(stranger, conversation),
        world.row(one, 987_654_321),
        world.row(foreign, conversation),
        spoofed,
    ):
        assert await commit(row) == CommitStatus.NOT_A_MEMBER
    assert await commit(world.row(one, conversation)) == CommitStatus.ACCEPTED
    await world.assert_contiguous()
    head = await world.store.conversations.conversations(one.tenant_id, [conversation])
    assert head[conversation].last_conversation_seq == 5 * (batch - 1) + 1


@pytest.mark.parametrize("batch", [1, 2])
async def test_an_earlier_key_is_answered_with_its_first_positions(
    world: World, batch: int
) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    row = world.row(one, conversation, content_hash=(1 << 56) | 5)
    (first,) = await world.commit(row)
    await world.commit(world.row(two, conversation))

    async def again(content_hash: int) -> tuple[CommitStatus, int, int, int, int, int]:
        repeated = world.row(one, conversation, key=row.key, content_hash=content_hash)
        fresh = [world.row(two, conversation) for _ in range(batch - 1)]
        outcome = (await world.commit(repeated, *fresh))[0]
        assert outcome.recipients == []
        return (
            outcome.status,
            outcome.message_id,
            outcome.conversation_seq,
            outcome.message_no,
            outcome.sender_timeline_seq,
            outcome.created_at_ms,
        )

    answer = (first.message_id, 1, 1, 1, first.created_at_ms)
    assert await again((1 << 56) | 5) == (CommitStatus.REPEATED, *answer)
    assert (await again((1 << 56) | 6))[0] == CommitStatus.KEY_REUSED
    # another version of the hash cannot be compared: counts as equal
    assert await again((2 << 56) | 6) == (CommitStatus.REPEATED, *answer)
    assert await again(-(1 << 62)) == (CommitStatus.REPEATED, *answer)
    await world.assert_contiguous()


async def test_a_key_belongs_to_its_sender(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    key = uuid7()
    outcomes = await world.commit(
        world.row(one, conversation, key=key), world.row(two, conversation, key=key)
    )
    assert [o.status for o in outcomes] == [CommitStatus.ACCEPTED] * 2


async def test_a_key_is_answered_after_its_sender_left(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    row = world.row(one, conversation)
    (first,) = await world.commit(row)
    await world.ask(
        "UPDATE chat.member SET gone = true WHERE conversation = %s AND account = %s",
        conversation,
        one.id,
    )
    (again,) = await world.commit(row)
    assert (again.status, again.conversation_seq) == (CommitStatus.REPEATED, 1)
    twice = await world.commit(row, world.row(one, conversation))
    assert [o.status for o in twice] == [CommitStatus.REPEATED, CommitStatus.NOT_A_MEMBER]
    assert twice[0].message_id == first.message_id


@pytest.mark.parametrize("batch", [1, 2])
async def test_a_call_that_only_repeats_writes_wal(world: World, batch: int) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    rows = [world.row(one, conversation) for _ in range(batch)]
    await world.commit(*rows)
    ((before,),) = await world.ask("SELECT pg_current_wal_insert_lsn()::text")
    again = await world.commit(*rows)
    assert {o.status for o in again} == {CommitStatus.REPEATED}
    ((messages,),) = await world.ask(
        "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), %s::pg_lsn)", before
    )
    assert messages > 0


async def test_neither_writes_past_a_block(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(world.row(one, conversation))
    await world.ask("INSERT INTO chat.block VALUES (%s, %s, 0)", two.id, one.id)
    await world.ask("UPDATE chat.timeline_head SET blocks = 1 WHERE account = %s", two.id)
    for batch in (
        [world.row(one, conversation)],
        [world.row(two, conversation)],
        [world.row(one, conversation), world.row(two, conversation)],
    ):
        outcomes = await world.commit(*batch)
        assert {o.status for o in outcomes} == {CommitStatus.NOT_REACHABLE}
    await world.assert_contiguous()


@pytest.mark.parametrize("batch", [1, 2])
async def test_a_disabled_account_neither_writes_nor_is_reached(world: World, batch: int) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.ask("UPDATE chat.timeline_head SET disabled = true WHERE account = %s", two.id)
    for sender, status in (
        (one, CommitStatus.NOT_REACHABLE),
        (two, CommitStatus.NOT_A_MEMBER),
    ):
        outcomes = await world.commit(*(world.row(sender, conversation) for _ in range(batch)))
        assert {o.status for o in outcomes} == {status}


async def test_the_self_conversation_takes_notes(world: World) -> None:
    (one,) = await world.users(1)
    conversation = await world.direct(one, one)
    (note,) = await world.commit(world.row(one, conversation))
    assert (note.status, note.sender_timeline_seq) == (CommitStatus.ACCEPTED, 1)
    assert len(note.recipients) == 1


@pytest.mark.parametrize("batch", [1, 2])
async def test_who_is_hinted_and_who_can_be_pushed(world: World, batch: int) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)

    async def hinted(flags: int = MESSAGE) -> tuple[dict[int, tuple[bool, bool]], int]:
        batch_id = world.new_id()
        rows = [world.row(one, conversation, flags=flags) for _ in range(batch)]
        outcomes = await world.commit(*rows, batch_id=batch_id)
        found = {r.account: (r.hinted, r.pushable) for o in outcomes for r in o.recipients}
        stored = await world.ask(
            "SELECT accounts, seqs, ids, pushable, node FROM chat.outbox WHERE batch_id = %s",
            batch_id,
        )
        expected = [
            (r.account, r.timeline_seq, o.message_id, r.pushable)
            for o in outcomes
            for r in o.recipients
            if r.hinted
        ]
        if expected:
            assert sorted(zip(*stored[0][:4], strict=True)) == sorted(expected)
            assert stored[0][4] == 1
        return found, len(stored)

    nobody = {one.id: (False, False), two.id: (False, False)}
    assert await hinted() == (nobody, 0)

    await world.ask("UPDATE chat.timeline_head SET devices = 1 WHERE account = %s", one.id)
    assert await hinted() == (nobody, 0)
    # sent without a session: the one device has not heard of it
    assert (await hinted(MESSAGE | EventFlag.NO_SESSION))[0][one.id] == (True, False)

    await world.ask("UPDATE chat.timeline_head SET devices = 2, push_devices = 1")
    assert await hinted() == ({one.id: (True, False), two.id: (True, True)}, 1)
    assert await hinted(EventFlag.VISIBLE) == ({one.id: (True, False), two.id: (True, False)}, 1)


async def test_notify_seq_is_the_newest_loud_entry_of_somebody_else(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)

    async def notify_seqs() -> tuple[int, int]:
        heads = await world.store.devices.heads([one.id, two.id])
        return heads[one.id].notify_seq, heads[two.id].notify_seq

    await world.commit(world.row(one, conversation))
    assert await notify_seqs() == (0, 1)
    await world.commit(
        world.row(two, conversation), world.row(one, conversation, flags=EventFlag.VISIBLE)
    )
    assert await notify_seqs() == (2, 1)
    await world.commit(world.row(two, conversation, flags=EventFlag.VISIBLE))
    assert await notify_seqs() == (2, 1)


async def test_done_rows_go_with_the_next_call(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.ask(
        "UPDATE chat.timeline_head SET devices = 2 WHERE account IN (%s, %s)", one.id, two.id
    )
    batches = [world.new_id() for _ in range(4)]
    for batch_id in batches:
        await world.commit(world.row(one, conversation), batch_id=batch_id)

    async def left() -> list[int]:
        return [
            batch_id
            for (batch_id,) in await world.ask(
                "SELECT batch_id FROM chat.outbox WHERE batch_id = ANY (%s) ORDER BY 1", batches
            )
        ]

    await world.commit(world.row(one, conversation), done=[batches[0]])
    assert await left() == batches[1:]
    refused = world.row(one, 987_654_321)
    await world.commit(refused, refused, done=[batches[2]])
    assert await left() == [batches[1], batches[3]]
    assert await world.commit(done=batches) == []
    assert await left() == []


async def test_poison_harms_nobody_else(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    good = world.row(one, conversation)
    poison = world.row(two, conversation, key=uuid7(at_ms=1_000))  # no partition of that day
    with pytest.raises(psycopg.IntegrityError):
        await world.commit(good, poison)
    with pytest.raises(psycopg.IntegrityError):
        await world.commit(poison)
    (outcome,) = await world.commit(good)
    assert (outcome.status, outcome.conversation_seq) == (CommitStatus.ACCEPTED, 1)
    await world.assert_contiguous()


async def test_equal_keys_in_one_call_are_poison_not_a_wrong_answer(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    row = world.row(one, conversation)
    twin = world.row(one, conversation, key=row.key)
    with pytest.raises(psycopg.errors.UniqueViolation):
        await world.commit(row, twin)
    await world.assert_contiguous()


async def test_the_same_key_on_two_lanes_at_once_is_one_message(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    async with world.lane() as other:
        for n in range(50):
            row = world.row(one, conversation, str(n))
            twin = world.row(one, conversation, str(n), key=row.key)
            extra = [world.row(two, conversation)] * (n % 2)
            first, second = await asyncio.gather(
                world.commit(row, *extra), world.commit(twin, on=other)
            )
            a, b = first[0], second[0]
            assert {a.status, b.status} == {CommitStatus.ACCEPTED, CommitStatus.REPEATED}
            assert a.message_id == b.message_id
            assert a.conversation_seq == b.conversation_seq
            assert a.sender_timeline_seq == b.sender_timeline_seq
    await world.assert_contiguous()


async def test_lanes_meet_on_hot_accounts_without_deadlock_or_gap(world: World) -> None:
    users = await world.users(4)
    pairs = [(a, b) for a in users for b in users if a.id < b.id]
    conversations = {pair: await world.direct(*pair) for pair in pairs}

    async def send(lane: CommitStore, seed: int) -> None:
        for n in range(40):
            size = (seed + n) % 7 + 1
            rows = []
            for k in range(size):
                pair = pairs[(seed * 31 + n * 7 + k * 5) % len(pairs)]
                rows.append(world.row(pair[(n + k) % 2], conversations[pair]))
            outcomes = await world.commit(*rows, on=lane)
            assert {o.status for o in outcomes} == {CommitStatus.ACCEPTED}

    async with world.lane() as second, world.lane() as third:
        await asyncio.gather(send(world.store.commit, 1), send(second, 2), send(third, 3))
    await world.assert_contiguous()
