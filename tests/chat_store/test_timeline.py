"""Reading timelines: resume, holes, bounds, what an entry says."""

from __future__ import annotations

from chat_svc.store.commit import EventFlag
from chat_svc.store.timeline import EntryRange
from tests.chat_store.world import World, text_body


async def test_an_entry_says_all_that_an_event_needs(world: World) -> None:
    one, two = await world.users(2)
    users = await world.store.accounts.users_of([one.id, two.id])
    conversation = await world.direct(one, two)
    row = world.row(one, conversation, "hi")
    quiet = world.row(two, conversation, "quiet", flags=EventFlag.VISIBLE)
    outcomes = [(await world.commit(r))[0] for r in (row, quiet)]
    sent = await world.store.timeline.read_entries(one.id, 0, 10, 1_000)
    received = await world.store.timeline.read_entries(two.id, 0, 10, 1_000)
    assert (sent.min_seq, sent.head_seq) == (1, 2)
    first, second = sent.rows
    assert (first.timeline_seq, first.conversation_id, first.conversation_seq) == (
        1,
        conversation,
        1,
    )
    assert (first.message_no, first.message_id) == (1, row.message_id)
    assert (first.sender_user, first.peer_user) == (users[one.id], users[two.id])
    assert (second.sender_user, second.peer_user) == (users[two.id], users[one.id])
    assert (first.created_at_ms, first.conversation_kind) == (outcomes[0].created_at_ms, 1)
    assert first.body == text_body("hi")
    assert (first.key, second.key) == (row.key, b"")
    assert (first.notifies, second.notifies) == (False, False)
    assert [(r.key, r.notifies) for r in received.rows] == [(b"", True), (quiet.key, False)]


async def test_the_owner_is_the_peer_of_a_note(world: World) -> None:
    (one,) = await world.users(1)
    users = await world.store.accounts.users_of([one.id])
    await world.commit(world.row(one, await world.direct(one, one)))
    (entry,) = (await world.store.timeline.read_entries(one.id, 0, 10, 1_000)).rows
    assert (entry.sender_user, entry.peer_user) == (users[one.id], users[one.id])
    assert (entry.conversation_kind, entry.notifies) == (3, False)


async def test_reads_are_bounded_and_contiguous(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(*(world.row(one, conversation, "x" * 100) for _ in range(20)))
    size = len(text_body("x" * 100))

    async def seqs(after: int, entries: int, most_bytes: int) -> list[int]:
        read = await world.store.timeline.read_entries(two.id, after, entries, most_bytes)
        assert (read.min_seq, read.head_seq) == (1, 20)
        return [row.timeline_seq for row in read.rows]

    assert await seqs(0, 7, 1 << 20) == list(range(1, 8))
    assert await seqs(18, 7, 1 << 20) == [19, 20]
    assert await seqs(20, 7, 1 << 20) == []
    assert await seqs(5, 100, 1) == [6]
    assert await seqs(5, 100, 3 * size) == [6, 7, 8]
    assert await seqs(5, 100, 3 * size + 1) == [6, 7, 8, 9]


async def test_holes_of_many_accounts_are_one_read(world: World) -> None:
    users = await world.users(3)
    hub = users[0]
    for other in users[1:]:
        conversation = await world.direct(hub, other)
        await world.commit(*(world.row(hub, conversation) for _ in range(4)))
    reads = await world.store.timeline.read_ranges(
        [
            EntryRange(users[1].id, 1, 3),
            EntryRange(hub.id, 6, 100),
            EntryRange(987, 0, 5),
            EntryRange(users[2].id, 4, 4),
            EntryRange(users[1].id, 0, 1),
        ]
    )
    assert [[row.timeline_seq for row in read.rows] for read in reads] == [
        [2, 3],
        [7, 8],
        [],
        [],
        [1],
    ]
    assert [read.head_seq for read in reads] == [4, 8, 0, 4, 4]
    assert await world.store.timeline.read_ranges([]) == []


async def test_what_is_erased_expired_or_gone_leaves_its_entry(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    rows = [
        world.row(one, conversation, expires_at_ms=1),
        world.row(one, conversation, expires_at_ms=1 << 60),
        world.row(one, conversation),
    ]
    await world.commit(*rows)
    await world.ask(
        "DELETE FROM chat.event WHERE conversation = %s AND conversation_seq = 3", conversation
    )
    read = await world.store.timeline.read_entries(two.id, 0, 10, 1 << 20)
    assert [row.timeline_seq for row in read.rows] == [1, 2, 3]
    assert [bool(row.body) for row in read.rows] == [False, True, False]
    assert (read.rows[2].message_id, read.rows[2].conversation_seq) == (0, 3)


async def test_a_cursor_is_compared_with_what_is_there(world: World) -> None:
    one, two = await world.users(2)
    (outcome,) = await world.commit(world.row(one, await world.direct(one, two)))
    matches = world.store.timeline.cursor_matches
    assert await matches(two.id, 1, outcome.message_id)
    assert await matches(two.id, 0, 0)
    assert not await matches(two.id, 1, outcome.message_id + 1)
    assert not await matches(two.id, 2, 0)
    assert not await matches(987, 1, 1)
