"""Groups: who comes and goes, in the same order for all, and who gets what."""

from __future__ import annotations

import asyncio

import pytest

from chat_svc.core.membership import Change, Join, Role
from chat_svc.store.accounts import AccountRow
from chat_svc.store.commit import CommitStatus
from chat_svc.store.devices import START_OLDEST
from chat_svc.store.govern import Properties
from chatmesh.runtime.faults import Fault
from chatmesh.v1.types_pb2 import Event
from tests.chat_store.world import World, uuid7

ADDED, REMOVED, LEFT, ROLE = Change.ADDED, Change.REMOVED, Change.LEFT, Change.ROLE


async def seqs(world: World, account: AccountRow, conversation: int) -> list[int]:
    """Positions of a conversation that an account has in its timeline."""
    return [seq for _, place, seq in await world.timeline(account) if place == conversation]


async def members(world: World, account: AccountRow, conversation: int) -> dict[str, int]:
    found = await world.store.conversations.list_members(
        account.id, conversation, after_user="", limit=100
    )
    assert found is not None
    return {member.user_id: member.role for member in found}


async def test_a_new_group_tells_its_members(world: World) -> None:
    owner, one, two, stranger = await world.users(4)
    key = uuid7()
    ids = await world.new_ids(4)
    create = world.store.govern.create_group
    made = await create(
        world.request(owner, key=key),
        world.named(one, two),
        Properties("the title"),
        max_members=3,
        ids=ids,
    )
    assert made.first is not None
    conversation = made.first.conversation
    assert (conversation, made.batch_id) == (ids[0], ids[3])
    first, second = (Event.FromString(event.body) for event in made.events)
    assert (first.content.conversation.created, first.content.conversation.title) == (
        True,
        "the title",
    )
    assert list(second.content.membership.user_ids) == [world.name_of(one), world.name_of(two)]
    assert [event.outcome.conversation_seq for event in made.events] == [1, 2]
    for account in (owner, one, two):
        assert await seqs(world, account, conversation) == [1, 2]
    assert await members(world, one, conversation) == {
        world.name_of(owner): Role.OWNER,
        world.name_of(one): Role.MEMBER,
        world.name_of(two): Role.MEMBER,
    }
    assert await world.store.conversations.view(stranger.id, conversation) is None
    again = await create(
        world.request(owner, key=key),
        world.named(one, two),
        Properties("the title"),
        max_members=3,
        ids=await world.new_ids(4),
    )
    assert again.first is not None
    assert (again.first.conversation, again.events) == (conversation, [])
    other = world.request(owner, key=key, content_hash=(1 << 56) + 1)
    with pytest.raises(Fault, match="KEY_REUSED"):
        await create(other, {}, Properties(), max_members=3, ids=await world.new_ids(4))
    with pytest.raises(Fault, match="LIMIT_EXCEEDED"):
        await create(
            world.request(owner),
            world.named(one, two),
            Properties(),
            max_members=2,
            ids=await world.new_ids(4),
        )
    await world.assert_contiguous()


async def test_the_outbox_row_of_a_slow_commit_names_all_devices(world: World) -> None:
    owner, one = await world.users(2)
    for account in (owner, one):
        await world.store.devices.open_session(account.id, "x", 1, "", 1, None, START_OLDEST)
    ids = await world.new_ids(4)
    made = await world.store.govern.create_group(
        world.request(owner), world.named(one), Properties(), max_members=9, ids=ids
    )
    stored = await world.ask(
        "SELECT accounts, node FROM chat.outbox WHERE batch_id = %s", made.batch_id
    )
    # called without a session: the caller's own device has not heard of it either
    assert [(sorted(accounts), node) for accounts, node in stored] == [
        (sorted([owner.id, one.id] * 2), 1)
    ]


async def test_nobody_is_added_who_blocks_or_does_not_exist(world: World) -> None:
    owner, shy, blocked = await world.users(3)
    (foreign,) = await world.users(1, tenant="far")
    await world.ask("INSERT INTO chat.block VALUES (%s, %s, 0)", shy.id, owner.id)
    await world.ask("INSERT INTO chat.block VALUES (%s, %s, 0)", owner.id, blocked.id)
    for other in (shy, blocked, foreign):
        with pytest.raises(Fault, match="NOT_REACHABLE"):
            await world.group(owner, other)
    conversation = await world.group(owner)
    for other in (shy, blocked, foreign):
        with pytest.raises(Fault, match="NOT_REACHABLE"):
            await world.change(owner, conversation, ADDED, other)
    assert await world.ask("SELECT count(*) FROM chat.conversation WHERE kind = 2") != [(4,)]
    assert await members(world, owner, conversation) == {world.name_of(owner): Role.OWNER}
    await world.assert_contiguous()


@pytest.mark.parametrize("batch", [1, 2])
async def test_who_is_member_at_a_position_gets_it_and_nobody_else(
    world: World, batch: int
) -> None:
    owner, one, two = await world.users(3)
    conversation = await world.group(owner, one)  # events 1 and 2

    async def say(sender: AccountRow) -> CommitStatus:
        rows = [world.row(sender, conversation) for _ in range(batch)]
        return (await world.commit(*rows))[0].status

    assert await say(owner) == CommitStatus.ACCEPTED
    assert await say(two) == CommitStatus.NOT_A_MEMBER
    await world.change(owner, conversation, ADDED, two)
    joined = 3 + batch
    assert await say(two) == CommitStatus.ACCEPTED
    await world.change(owner, conversation, REMOVED, two)
    removed = joined + batch + 1
    assert await say(two) == CommitStatus.NOT_A_MEMBER
    assert await say(one) == CommitStatus.ACCEPTED
    await world.change(owner, conversation, ADDED, two)
    back = removed + batch + 1
    await world.change(two, conversation, LEFT, two)

    everything = list(range(1, back + 2))
    assert await seqs(world, owner, conversation) == everything
    assert await seqs(world, one, conversation) == everything
    assert await seqs(world, two, conversation) == [
        *range(joined, removed + 1),
        back,
        back + 1,
    ]
    page = await world.store.history.list_messages(
        two.id, conversation, from_seq=0, forward=True, limit=50
    )
    assert page is not None
    assert [m.conversation_seq for m in page.messages] == [*range(joined + 1, removed)]
    await world.assert_contiguous()


async def test_history_of_before_is_seen_where_the_rule_says_so(world: World) -> None:
    owner, one = await world.users(2)
    conversation = await world.group(owner, history=2)
    await world.commit(world.row(owner, conversation))
    await world.change(owner, conversation, ADDED, one)
    assert await seqs(world, one, conversation) == [3]
    page = await world.store.history.list_messages(
        one.id, conversation, from_seq=0, forward=False, limit=50
    )
    assert page is not None
    assert [m.conversation_seq for m in page.messages] == [2]
    assert await world.store.conversations.unread_totals(one.id) == (0, 0)


async def test_roles(world: World) -> None:
    owner, admin, one, two = await world.users(4)
    conversation = await world.group(owner, admin, one)

    async def refused(reason: str, actor: AccountRow, change: Change, *who: AccountRow) -> None:
        with pytest.raises(Fault, match=reason):
            await world.change(actor, conversation, change, *who, role=Role.ADMIN)

    await refused("ROLE_REQUIRED", one, ADDED, two)
    await refused("ROLE_REQUIRED", one, REMOVED, admin)
    await refused("ROLE_REQUIRED", admin, ROLE, admin)
    await refused("NOT_FOUND", two, ADDED, two)
    await refused("NOT_FOUND", two, LEFT, two)
    await refused("LAST_OWNER", owner, LEFT, owner)
    await refused("NOT_REACHABLE", owner, ROLE, two)
    await world.change(owner, conversation, ROLE, admin, role=Role.ADMIN)
    await refused("ROLE_REQUIRED", admin, ADDED, two)  # as admin
    await world.change(admin, conversation, ADDED, two)
    await refused("ROLE_REQUIRED", admin, REMOVED, owner)
    await world.change(admin, conversation, REMOVED, two)
    with pytest.raises(Fault, match="LAST_OWNER"):
        await world.change(owner, conversation, ROLE, owner, role=Role.MEMBER)
    await world.change(owner, conversation, ROLE, one, role=Role.OWNER)
    await world.change(owner, conversation, LEFT, owner)
    assert await members(world, one, conversation) == {
        world.name_of(admin): Role.ADMIN,
        world.name_of(one): Role.OWNER,
    }
    nothing = await world.change(one, conversation, ADDED, admin)
    assert (nothing.first, nothing.events) == (None, [])
    await world.assert_contiguous()


async def test_title_and_rules(world: World) -> None:
    owner, admin, one, two = await world.users(4)
    conversation = await world.group(owner, admin, one)
    await world.change(owner, conversation, ROLE, admin, role=Role.ADMIN)
    update = world.store.govern.update_group

    async def set_to(actor: AccountRow, properties: Properties) -> None:
        await update(world.request(actor), conversation, properties, ids=await world.new_ids(2))

    with pytest.raises(Fault, match="ROLE_REQUIRED"):
        await set_to(one, Properties("mine"))
    with pytest.raises(Fault, match="ROLE_REQUIRED"):
        await set_to(admin, Properties(join=Join.OPEN))
    with pytest.raises(Fault, match="NOT_FOUND"):
        await set_to(two, Properties("mine"))
    await set_to(admin, Properties("new"))
    await set_to(owner, Properties(join=Join.OPEN))
    view = await world.store.conversations.view(one.id, conversation)
    assert view is not None
    row = view.conversation
    assert (row.title, row.join_policy, row.history_policy) == ("new", Join.OPEN, 1)
    await world.change(two, conversation, ADDED, two)
    assert world.name_of(two) in await members(world, two, conversation)


async def test_a_repeated_change_is_answered_with_its_event(world: World) -> None:
    owner, one = await world.users(2)
    conversation = await world.group(owner, one)
    key = uuid7()
    left = await world.change(one, conversation, LEFT, one, key=key)
    again = await world.change(one, conversation, LEFT, one, key=key)
    assert left.first is not None
    assert again.first is not None
    assert again.first.status == CommitStatus.REPEATED
    assert again.first.message_id == left.first.message_id
    # a message under the key of a change is not that change
    (outcome,) = await world.commit(world.row(one, conversation, key=key, content_hash=5 | 1 << 56))
    assert outcome.status == CommitStatus.KEY_REUSED


async def test_changes_at_once_are_each_decided_on_what_is(world: World) -> None:
    users = await world.users(12)
    owner = users[0]
    conversation = await world.group(owner, *users[1:6])
    for admin in users[1:3]:
        await world.change(owner, conversation, ROLE, admin, role=Role.ADMIN)

    async def try_to(change: Change, actor: AccountRow, target: AccountRow) -> None:
        try:
            await world.change(actor, conversation, change, target)
        except Fault as fault:
            if fault.reason not in {"NOT_FOUND", "ROLE_REQUIRED"}:
                raise

    async with world.lane() as lane:
        await asyncio.gather(
            *(try_to(ADDED, users[n % 3], users[6 + n % 6]) for n in range(12)),
            *(try_to(REMOVED, users[n % 2], users[2 + n % 6]) for n in range(12)),
            *(try_to(LEFT, user, user) for user in users[3:6]),
            *(world.commit(world.row(owner, conversation), on=lane) for _ in range(1)),
        )
    await world.assert_contiguous()
    ((count, truly),) = await world.ask(
        "SELECT member_count, (SELECT count(*) FROM chat.member m"
        " WHERE m.conversation = c.id AND NOT m.gone) FROM chat.conversation c WHERE id = %s",
        conversation,
    )
    assert count == truly
    # each account's entries of the group are exactly its intervals
    wrong = await world.ask(
        """
        SELECT x.account, x.seq FROM (
          SELECT m.account, e.conversation_seq AS seq,
            EXISTS (SELECT FROM chat.timeline t WHERE t.account = m.account
              AND t.conversation = e.conversation AND t.conversation_seq = e.conversation_seq)
              AS has,
            chat.may_read_1(m.account, e.conversation, e.conversation_seq) AS may
          FROM chat.member m JOIN chat.event e USING (conversation) WHERE m.conversation = %s
        ) x WHERE x.has <> x.may
        """,
        conversation,
    )
    assert wrong == []


async def test_only_groups_can_be_changed(world: World) -> None:
    one, two, three = await world.users(3)
    conversation = await world.direct(one, two)
    with pytest.raises(Fault, match="NOT_FOUND"):
        await world.change(one, conversation, ADDED, three)
    with pytest.raises(Fault, match="NOT_FOUND"):
        await world.change(one, conversation, LEFT, one)
