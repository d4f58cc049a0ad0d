"""Marks in the store, and who may be told of them."""

from __future__ import annotations

from chat_svc.core.membership import Change
from chat_svc.store.accounts import AccountRow, Privacy
from chat_svc.store.commit import EventFlag
from chat_svc.store.receipts import ChangedMark, Mark, Tally
from tests.chat_store.world import World


async def say(world: World, sender: AccountRow, conversation: int, count: int = 1) -> int:
    """Messages; the position of the last."""
    outcomes = await world.commit(*(world.row(sender, conversation) for _ in range(count)))
    return outcomes[-1].conversation_seq


async def mark(
    world: World, conversation: int, account: AccountRow, *, read: int = 0, delivered: int = 0
) -> ChangedMark:
    """One mark that rises."""
    (changed,) = await world.store.receipts.write_marks(
        [Mark(conversation, account.id, read, delivered)]
    )
    return changed


async def hide(world: World, account: AccountRow, audience: int = 1) -> None:
    await world.store.accounts.set_privacy(account.id, Privacy(0, 0, 0, audience))


async def test_a_mark_says_which_positions_it_passed(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(
        *(
            world.row(one, conversation, flags=flags)
            for flags in (EventFlag.VISIBLE, 0, EventFlag.VISIBLE, EventFlag.VISIBLE)
        )
    )

    async def passed(**fields: int) -> tuple[int, int]:
        changed = await mark(world, conversation, two, **fields)
        return changed.above_seq, changed.up_to_seq

    assert await passed(delivered=2) == (0, 2)
    assert await passed(read=2) == (0, 3)  # the second message is the third event
    assert await passed(delivered=3) == (2, 3)
    assert await passed(read=3, delivered=4) == (3, 4)
    assert await world.store.receipts.write_marks([Mark(conversation, two.id, 3, 4)]) == []


async def test_receipts_go_to_members_who_hide_none_and_are_not_blocked(world: World) -> None:
    users = await world.users(5)
    reader, plain, hiding, blocked, blocking = users
    group = await world.group(reader, *users[1:])
    last = await say(world, plain, group)
    for owner, other in ((reader, blocked), (blocking, reader)):
        await world.ask("INSERT INTO chat.block VALUES (%s, %s, 0)", owner.id, other.id)
    await hide(world, hiding)
    changed = await mark(world, group, reader, delivered=last)
    viewers = world.store.receipts.receipt_viewers
    assert await viewers([changed]) == {(group, reader.id): [plain.id]}
    await hide(world, hiding, 2)
    assert (await viewers([changed]))[group, reader.id] == sorted([plain.id, hiding.id])
    await world.change(plain, group, Change.LEFT, plain)
    assert await viewers([changed]) == {(group, reader.id): [hiding.id]}
    await hide(world, reader)
    assert await viewers([changed]) == {}


async def test_members_lists_hide_marks_both_ways(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await say(world, one, conversation, 2)
    await mark(world, conversation, two, read=2, delivered=2)

    async def seen() -> dict[int, tuple[int, int]]:
        rows = await world.store.conversations.list_members(
            one.id, conversation, after_user="", limit=9
        )
        assert rows is not None
        return {r.account: (r.read_message_no, r.delivered_conversation_seq) for r in rows}

    assert (await seen())[two.id] == (2, 2)
    for hider in (one, two):
        await hide(world, hider)
        assert (await seen())[two.id] == (0, 0)
        await hide(world, hider, 2)


async def test_senders_are_those_of_the_positions_passed(world: World) -> None:
    users = await world.users(4)
    reader, first, second, third = users
    group = await world.group(reader, *users[1:])
    await say(world, first, group)
    middle = await say(world, second, group)
    await mark(world, group, reader, delivered=middle - 1)
    last = await say(world, third, group)
    changed = await mark(world, group, reader, delivered=last)
    assert await world.store.receipts.senders([changed]) == {
        (group, reader.id): sorted([second.id, third.id])
    }
    both = [changed, await mark(world, group, first, delivered=last)]
    assert (await world.store.receipts.senders(both))[group, first.id] == sorted(
        [first.id, second.id, third.id]
    )


async def test_a_tally_counts_who_has_the_senders_newest(world: World) -> None:
    sender, other, *rest = await world.users(24)
    group = await world.group(sender, other, *rest)
    await say(world, sender, group)
    seq = await say(world, sender, group)
    await mark(world, group, rest[0], read=2, delivered=seq)
    await mark(world, group, rest[1], delivered=seq)
    await mark(world, group, rest[2], delivered=seq - 1)
    tallies = world.store.receipts.tallies
    assert await tallies([(group, 0, seq)]) == [Tally(group, sender.id, seq, 2, 2, 1)]
    assert await tallies([(group, 0, seq - 1)]) == [Tally(group, sender.id, seq - 1, 1, 3, 1)]
    await hide(world, rest[1])
    assert await tallies([(group, 0, seq)]) == [Tally(group, sender.id, seq, 2, 1, 1)]
    later = await say(world, other, group)
    found = await tallies([(group, 0, later)])
    assert {tally.sender: tally.delivered_members for tally in found} == {
        sender.id: 1,
        other.id: 0,
    }
    await hide(world, sender)
    assert [tally.sender for tally in await tallies([(group, 0, later)])] == [other.id]
    assert await tallies([(group, later, later)]) == []


async def test_a_resumed_cursor_brings_the_marks_that_were_never_written(world: World) -> None:
    hub, one, two = await world.users(3)
    first, second = await world.direct(hub, one), await world.direct(hub, two)
    await say(world, one, first, 3)
    await say(world, two, second, 2)
    await say(world, one, first)
    resumed = world.store.receipts.resumed_marks

    async def marks(seq: int) -> set[Mark]:
        return set(await resumed([(hub.id, seq)]))

    assert await marks(0) == set()
    assert await marks(4) == {Mark(first, hub.id, 0, 3), Mark(second, hub.id, 0, 1)}
    await world.store.receipts.write_marks(await resumed([(hub.id, 4)]))
    assert await marks(4) == set()
    assert await marks(6) == {Mark(first, hub.id, 0, 4), Mark(second, hub.id, 0, 2)}
    assert set(await resumed([(hub.id, 6), (one.id, 1), (987, 5)])) == {
        Mark(first, hub.id, 0, 4),
        Mark(second, hub.id, 0, 2),
        Mark(first, one.id, 0, 1),
    }
