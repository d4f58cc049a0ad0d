"""Contacts and blocks: the table, the events, and a block that races a message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import product

import pytest

from chat_svc.core.contacts import ContactAction, Line, Standing, decide
from chat_svc.store.accounts import AccountRow, ContactState, Privacy
from chat_svc.store.commit import CommitStatus
from chat_svc.store.governed import Governed
from chatmesh.runtime.faults import Fault
from chatmesh.v1.types_pb2 import Event
from tests.chat_store.world import World, uuid7

REQUEST, ACCEPT, DECLINE, REMOVE, BLOCK, UNBLOCK = ContactAction


async def act(
    world: World,
    actor: AccountRow,
    action: ContactAction,
    other: AccountRow,
    key: bytes | None = None,
) -> Governed:
    return await world.store.relations.change(
        world.request(actor, key=key),
        other.id,
        world.name_of(other),
        action,
        ids=await world.new_ids(3),
    )


async def state(world: World, owner: AccountRow, other: AccountRow) -> ContactState:
    line = await world.store.accounts.contact(owner.id, other.id)
    return line.state if line else ContactState.NONE


async def log(world: World, account: AccountRow) -> list[tuple[str, str, str]]:
    """What an account's own log says."""
    read = await world.store.timeline.read_entries(account.id, 0, 100, 1 << 20)
    entries = [Event.FromString(row.body).content.account for row in read.rows]
    return [(entry.subject, entry.user_id, entry.state) for entry in entries]


async def test_a_request_and_its_answer(world: World) -> None:
    one, two = await world.users(2)
    asked = await act(world, one, REQUEST, two)
    assert [event.sender for event in asked.events] == [one.id, two.id]
    assert await state(world, one, two) == ContactState.REQUESTED
    assert await state(world, two, one) == ContactState.INCOMING
    assert await world.store.accounts.contacts_of([one.id, two.id]) == {one.id: [], two.id: []}
    with pytest.raises(Fault, match="NOT_FOUND"):
        await act(world, one, ACCEPT, two)
    await act(world, two, ACCEPT, one)
    assert await world.store.accounts.contacts_of([one.id, two.id]) == {
        one.id: [two.id],
        two.id: [one.id],
    }
    assert (await act(world, one, REQUEST, two)).events == []
    await act(world, one, REMOVE, two)
    assert await state(world, two, one) == ContactState.NONE
    a, b = world.name_of(one), world.name_of(two)
    assert await log(world, one) == [
        ("contacts", b, "requested"),
        ("contacts", b, "accepted"),
        ("contacts", b, "removed"),
    ]
    assert await log(world, two) == [
        ("contacts", a, "incoming"),
        ("contacts", a, "accepted"),
        ("contacts", a, "removed"),
    ]
    await world.assert_contiguous()


async def test_a_blocked_user_is_not_told(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)  # which makes them contacts
    assert await state(world, two, one) == ContactState.ACCEPTED
    await world.commit(world.row(one, conversation))
    await act(world, two, BLOCK, one)
    assert await state(world, one, two) == ContactState.ACCEPTED
    assert await state(world, two, one) == ContactState.BLOCKED
    assert await world.store.accounts.contacts_of([one.id]) == {one.id: []}
    assert await world.store.accounts.blocked_by(two.id) == {one.id}
    assert len(await world.timeline(one)) == 1
    (outcome,) = await world.commit(world.row(one, conversation))
    assert outcome.status == CommitStatus.NOT_REACHABLE
    with pytest.raises(Fault, match="NOT_REACHABLE"):
        await act(world, two, REQUEST, one)
    assert (await act(world, two, BLOCK, one)).events == []
    await act(world, two, UNBLOCK, one)
    assert (await act(world, two, UNBLOCK, one)).events == []
    (outcome,) = await world.commit(world.row(one, conversation))
    assert outcome.status == CommitStatus.ACCEPTED
    await act(world, two, REQUEST, one)
    assert await world.store.accounts.contacts_of([one.id]) == {one.id: [two.id]}
    await world.assert_contiguous()


async def test_a_request_to_one_who_blocks_looks_like_one_without_answer(world: World) -> None:
    one, two = await world.users(2)
    await act(world, two, BLOCK, one)
    await act(world, one, REQUEST, two)
    assert await state(world, one, two) == ContactState.REQUESTED
    assert await state(world, two, one) == ContactState.BLOCKED
    assert await log(world, two) == [("blocks", world.name_of(one), "blocked")]
    await act(world, two, UNBLOCK, one)
    assert await state(world, two, one) == ContactState.NONE


async def test_a_repeated_action_is_answered_once(world: World) -> None:
    one, two = await world.users(2)
    key = uuid7()
    first = await act(world, one, BLOCK, two, key)
    again = await act(world, one, BLOCK, two, key)
    assert first.first is not None
    assert again.first is not None
    assert again.first.message_id == first.first.message_id
    assert again.events == []


async def test_lists_are_by_user_id(world: World) -> None:
    one, *others = await world.users(5)
    for other in others[:3]:
        await act(world, other, REQUEST, one)
    await act(world, one, ACCEPT, others[1])
    await act(world, one, BLOCK, others[3])
    accounts = world.store.accounts

    async def listed(state: ContactState, after: str = "", limit: int = 10) -> list[int]:
        page = await accounts.list_contacts(one.id, state=state, after_user=after, limit=limit)
        return [line.account for line in page]

    assert await listed(ContactState.NONE) == [other.id for other in others[:3]]
    assert await listed(ContactState.INCOMING) == [others[0].id, others[2].id]
    assert await listed(ContactState.BLOCKED) == [others[3].id]
    assert await listed(ContactState.NONE, limit=2) == [other.id for other in others[:2]]
    after = world.name_of(others[1])
    assert await listed(ContactState.NONE, after) == [others[2].id]


async def test_privacy_is_kept_field_by_field(world: World) -> None:
    (one,) = await world.users(1)
    accounts = world.store.accounts
    before = (await world.store.devices.heads([one.id]))[one.id].account_version
    assert await accounts.set_privacy(one.id, Privacy(1, 0, 0, 0)) == Privacy(1, 2, 2, 2)
    assert await accounts.set_privacy(one.id, Privacy(0, 0, 1, 0)) == Privacy(1, 2, 1, 2)
    assert await accounts.privacy([one.id]) == {one.id: Privacy(1, 2, 1, 2)}
    after = (await world.store.devices.heads([one.id]))[one.id].account_version
    assert after == before + 2


def test_every_standing_and_action_keeps_the_rules() -> None:
    for mine, theirs, i_block, they_block, action in product(
        Line, Line, (False, True), (False, True), ContactAction
    ):
        if i_block and mine is not Line.NONE:
            continue  # a block takes the line away
        now = Standing(mine, theirs, i_block, they_block)
        try:
            decision = decide(action, now)
        except Fault:
            assert (action in (ACCEPT, DECLINE) and mine is not Line.INCOMING) or (
                action is REQUEST and i_block
            )
            continue
        after = decision.after
        assert after.they_block == they_block
        assert bool(decision.mine_state) == (after != now)
        if after.i_block:
            assert after.mine is Line.NONE
        if i_block or they_block or action in (BLOCK, UNBLOCK, DECLINE):
            assert not decision.theirs_state
        if decision.theirs_state:
            assert after.theirs is not theirs
        if action is BLOCK:
            assert after.i_block


async def test_nothing_lands_after_a_block(world: World) -> None:
    """The check comes after the locks: what is committed after the block is refused."""
    async with world.lane() as lane:
        for n in range(30):
            one, two = await world.users(2)
            conversation = await world.direct(one, two)
            sizes = [1 + n % 2] * 6

            async def send(
                sender: AccountRow = one, to: int = conversation, sizes: Sequence[int] = sizes
            ) -> list[CommitStatus]:
                statuses = []
                for size in sizes:
                    rows = [world.row(sender, to) for _ in range(size)]
                    statuses.append((await world.commit(*rows, on=lane))[0].status)
                return statuses

            statuses, _ = await asyncio.gather(send(), act(world, two, BLOCK, one))
            accepted = statuses.count(CommitStatus.ACCEPTED)
            assert statuses == [CommitStatus.ACCEPTED] * accepted + [CommitStatus.NOT_REACHABLE] * (
                6 - accepted
            )
            # of the recipient's timeline the block's own event says where it took effect
            entries = await world.timeline(two)
            block = next(seq for seq, place, _ in entries if place != conversation)
            messages = [seq for seq, place, _ in entries if place == conversation]
            assert all(seq > 0 for seq in messages)
            blocked_at = await world.ask(
                "SELECT changed_at_ms FROM chat.block WHERE owner = %s", two.id
            )
            late = await world.ask(
                "SELECT count(*) FROM chat.event WHERE conversation = %s AND created_at_ms > %s",
                conversation,
                blocked_at[0][0],
            )
            assert late == [(0,)]
            assert all(seq < block for seq in messages)
