"""What happens at once, a thousand times over, on a real PostgreSQL: one key on two lanes, members
that come and go while somebody writes, blocks that fall while somebody writes.

A lane is what a chat node commits on; two lanes are two nodes as PostgreSQL sees them.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter

from chat_svc.core.contacts import ContactAction
from chat_svc.core.membership import Change
from chat_svc.store.accounts import AccountRow
from chat_svc.store.commit import CommitStatus, CommitStore, EventKind
from tests.chat_store.world import World

ROUNDS = int(os.environ.get("CHATMESH_FAULTS_ROUNDS", "1000"))
ACCEPTED, REPEATED = CommitStatus.ACCEPTED, CommitStatus.REPEATED


async def say(
    world: World, lane: CommitStore, sender: AccountRow, conversation: int, sizes: list[int]
) -> list[CommitStatus]:
    """Batches one after the other; what each was answered."""
    statuses = []
    for size in sizes:
        rows = [world.row(sender, conversation) for _ in range(size)]
        outcomes = await world.commit(*rows, on=lane)
        assert len({outcome.status for outcome in outcomes}) == 1, "a batch is checked as a whole"
        statuses.append(outcomes[0].status)
    return statuses


async def test_one_key_on_two_nodes_at_once_is_one_message_answered_to_both(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    start = asyncio.Barrier(2)
    first_was: Counter[int] = Counter()

    async with world.lane() as other:

        async def commit(lane: CommitStore, key: bytes) -> tuple[CommitStatus, int, int, int]:
            row = world.row(one, conversation, key=key)
            await start.wait()
            (outcome,) = await world.commit(row, on=lane)
            return (
                outcome.status,
                outcome.message_id,
                outcome.conversation_seq,
                outcome.sender_timeline_seq,
            )

        for _ in range(ROUNDS):
            key = world.row(one, conversation).key
            lanes = (world.store.commit, other)
            a, b = await asyncio.gather(*(commit(lane, key) for lane in lanes))
            assert {a[0], b[0]} == {ACCEPTED, REPEATED}
            assert a[1:] == b[1:], "both are answered with the one message"
            first_was[0 if a[0] == ACCEPTED else 1] += 1
    print("first was", dict(first_was))
    ((messages,),) = await world.ask(
        "SELECT count(*) FROM chat.event WHERE conversation = %s", conversation
    )
    assert messages == ROUNDS
    await world.assert_contiguous()


async def test_members_at_a_position_get_it_and_nobody_else_however_they_come_and_go(
    world: World,
) -> None:
    owner, one, guest = await world.users(3)
    group = await world.group(owner, one, guest)
    told: Counter[CommitStatus] = Counter()
    async with world.lane() as second, world.lane() as third:
        for n in range(ROUNDS):
            change = Change.REMOVED if n % 2 == 0 else Change.ADDED
            theirs, mine, _ = await asyncio.gather(
                say(world, second, guest, group, [1 + n % 2, 1]),
                say(world, third, one, group, [1]),
                world.change(owner, group, change, guest),
            )
            told.update(theirs)
            assert mine == [ACCEPTED], "others are not concerned"
            assert set(theirs) <= {ACCEPTED, CommitStatus.NOT_A_MEMBER}
    print(dict(told))
    assert all(told[status] > 0 for status in (ACCEPTED, CommitStatus.NOT_A_MEMBER))
    # every account's entries are exactly the positions of its stays, and so are a writer's messages
    wrong = await world.ask(
        """
        SELECT m.account, e.conversation_seq FROM chat.member m
        JOIN chat.event e USING (conversation)
        WHERE m.conversation = %s AND (
          EXISTS (SELECT FROM chat.timeline t WHERE t.account = m.account
            AND t.conversation = e.conversation AND t.conversation_seq = e.conversation_seq)
          <> chat.may_read_1(m.account, e.conversation, e.conversation_seq)
          OR e.sender = m.account AND NOT chat.may_read_1(m.account, e.conversation,
            e.conversation_seq))
        """,
        group,
    )
    assert wrong == []
    await world.assert_contiguous()


async def test_nothing_lands_after_a_block_a_thousand_times(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    told: Counter[CommitStatus] = Counter()
    async with world.lane() as lane:
        for n in range(ROUNDS):
            action = ContactAction.BLOCK if n % 2 == 0 else ContactAction.UNBLOCK
            statuses, _ = await asyncio.gather(
                say(world, lane, one, conversation, [1 + n % 2, 1]),
                world.store.relations.change(
                    world.request(two),
                    one.id,
                    world.name_of(one),
                    action,
                    ids=await world.new_ids(3),
                ),
            )
            told.update(statuses)
    print(dict(told))
    assert all(told[status] > 0 for status in (ACCEPTED, CommitStatus.NOT_REACHABLE))
    # the owner's own log says where each block begins and ends, in the timeline that it protects
    kinds = await world.ask(
        "SELECT e.kind FROM chat.timeline t JOIN chat.event e"
        " USING (conversation, conversation_seq) WHERE t.account = %s ORDER BY t.timeline_seq",
        two.id,
    )
    blocked, changes = False, 0
    for (kind,) in kinds:
        if kind == EventKind.ACCOUNT:
            blocked, changes = not blocked, changes + 1
        else:
            assert not blocked, "a message landed after the block"
    assert changes == ROUNDS
    await world.assert_contiguous()
