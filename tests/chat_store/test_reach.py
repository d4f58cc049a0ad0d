"""Who may write to whom, and how often one may react: checked in the commit, under its locks."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from chat_svc.core.contacts import ContactAction
from chat_svc.core.membership import Change, Join, Role
from chat_svc.store.accounts import AccountRow
from chat_svc.store.bundle import ROLE
from chat_svc.store.commit import CommitStatus, CommitStore, EventKind, commit_rules
from chat_svc.store.govern import GovernStore, Properties
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.postgres import Database
from tests.chat_store.world import World

CONTACTS = dict(commit_rules("contacts", 3))
TENANT = dict(commit_rules("tenant", 3))
OK, REFUSED = CommitStatus.ACCEPTED, CommitStatus.NOT_REACHABLE
ROUNDS = 60


async def act(world: World, actor: AccountRow, action: ContactAction, other: AccountRow) -> int:
    """A contact changes; the position of its event in the actor's timeline."""
    done = await world.store.relations.change(
        world.request(actor), other.id, world.name_of(other), action, ids=await world.new_ids(3)
    )
    assert done.first is not None
    return done.first.sender_timeline_seq


async def strangers(world: World) -> tuple[AccountRow, AccountRow, int]:
    """Two who have a conversation and are no contacts."""
    one, two = await world.users(2)
    pair = (min(one.id, two.id), max(one.id, two.id))
    made = await world.store.conversations.direct_conversations(
        one.tenant_id, [pair], world.new_ids, make_contacts=False
    )
    return one, two, made[pair]


@pytest.mark.parametrize("batch", [1, 3])
async def test_only_contacts_write_to_each_other_where_that_is_the_rule(
    world: World, batch: int
) -> None:
    one, two, conversation = await strangers(world)
    everywhere = await world.direct(one, one)

    async def status(sender: AccountRow, on: CommitStore) -> CommitStatus:
        filling = [world.row(one, everywhere) for _ in range(batch - 1)]
        found, *rest = await world.commit(world.row(sender, conversation), *filling, on=on)
        assert {outcome.status for outcome in rest} <= {OK}
        return found.status

    async with world.lane(**CONTACTS) as contacts, world.lane(**TENANT) as tenant:
        assert await status(one, contacts) == REFUSED
        assert await status(one, tenant) == OK
        assert await status(one, world.store.commit) == OK
        await act(world, one, ContactAction.REQUEST, two)
        assert [await status(who, contacts) for who in (one, two)] == [REFUSED] * 2
        await act(world, two, ContactAction.ACCEPT, one)
        assert [await status(who, contacts) for who in (one, two)] == [OK] * 2
        await act(world, two, ContactAction.REMOVE, one)
        assert [await status(who, contacts) for who in (one, two)] == [REFUSED] * 2
        assert await status(two, tenant) == OK
        assert await world.commit(world.row(one, everywhere), on=contacts)
    await world.assert_contiguous()


async def test_only_contacts_are_added_to_groups_where_that_is_the_rule(world: World) -> None:
    one, two, _ = await strangers(world)
    open_to_all = Properties("group", Join.OPEN, 1)
    async with Database(
        world.url, role_name=ROLE, session_settings=tuple(CONTACTS.items())
    ) as database:
        govern = GovernStore(database)

        async def create(*members: AccountRow) -> int:
            made = await govern.create_group(
                world.request(one),
                world.named(*members),
                open_to_all,
                max_members=10,
                ids=await world.new_ids(4),
            )
            assert made.first is not None
            return made.first.conversation

        async def add(actor: AccountRow, group: int, other: AccountRow) -> None:
            await govern.change_members(
                world.request(actor),
                group,
                Change.ADDED,
                world.named(other),
                Role.MEMBER,
                max_members=10,
                ids=await world.new_ids(2),
            )

        with pytest.raises(Fault, match="NOT_REACHABLE"):
            await create(two)
        group = await create()
        with pytest.raises(Fault, match="NOT_REACHABLE"):
            await add(one, group, two)
        await add(two, group, two)  # who joins by themselves is nobody's contact
        async with world.lane(**CONTACTS) as lane:
            (outcome,) = await world.commit(world.row(two, group), on=lane)
            assert outcome.status == OK
        await act(world, one, ContactAction.REQUEST, two)
        await act(world, two, ContactAction.ACCEPT, one)
        await create(two)


async def send(
    world: World,
    lane: CommitStore,
    one: AccountRow,
    two: AccountRow,
    conversation: int,
    commits: int,
) -> list[tuple[CommitStatus, int]]:
    """Messages of the first to the second: status, and position in the second's timeline."""
    said = []
    for n in range(commits):
        rows = [world.row(one, conversation) for _ in range(1 + n % 2)]
        for outcome in await world.commit(*rows, on=lane):
            places = {r.account: r.timeline_seq for r in outcome.recipients}
            said.append((outcome.status, places.get(two.id, 0)))
    return said


async def test_nothing_lands_after_a_contact_ended(world: World) -> None:
    """As for blocks: whatever is accepted lies before the removal in the remover's timeline."""
    async with world.lane(**CONTACTS) as lane:
        for _ in range(ROUNDS):
            one, two, conversation = await strangers(world)
            await act(world, one, ContactAction.REQUEST, two)
            await act(world, two, ContactAction.ACCEPT, one)
            talk = partial(send, world, lane, one, two, conversation)
            before = await talk(1)
            said, removed = await asyncio.gather(
                talk(3), act(world, two, ContactAction.REMOVE, one)
            )
            after = await talk(1)
            assert before[0][0] == OK
            assert [status for status, _ in after] == [REFUSED]
            assert {status for status, _ in said} <= {OK, REFUSED}
            assert all(place < removed for status, place in (*before, *said) if status is OK)
    await world.assert_contiguous()


@pytest.mark.parametrize("batch", [1, 2])
async def test_reactions_of_one_user_to_one_message_are_bounded(world: World, batch: int) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(world.row(one, conversation), world.row(one, conversation))

    async def react(who: AccountRow, target: int, times: int) -> list[CommitStatus]:
        rows = [
            world.row(who, conversation, kind=EventKind.REACTION, flags=0, target_seq=target)
            for _ in range(times)
        ]
        outcomes = [
            outcome
            for start in range(0, times, batch)
            for outcome in await world.commit(*rows[start : start + batch], on=lane)
        ]
        return [outcome.status for outcome in outcomes]

    flood = CommitStatus.TOO_MANY_REACTIONS
    async with world.lane(**TENANT) as lane:
        assert await react(two, 1, 5) == [OK, OK, OK, flood, flood]
        assert await react(two, 2, 1) == [OK]
        assert await react(one, 1, 1) == [OK]
        assert await react(two, 1, 1) == [flood]
        assert (await world.commit(world.row(two, conversation), on=lane))[0].status == OK
    await world.assert_contiguous()


async def test_a_flood_in_one_batch_is_bounded_too(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(world.row(one, conversation))
    rows = [
        world.row(who, conversation, kind=EventKind.REACTION, flags=0, target_seq=1)
        for _ in range(5)
        for who in (one, two)
    ]
    async with world.lane(**TENANT) as lane:
        outcomes = await world.commit(*rows, on=lane)
    accepted = [
        row.sender for row, outcome in zip(rows, outcomes, strict=True) if outcome.status is OK
    ]
    assert accepted == [one.id, two.id] * 3
    await world.assert_contiguous()
