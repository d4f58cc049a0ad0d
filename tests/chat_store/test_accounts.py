"""Accounts and direct conversations: made once, by whoever comes first."""

from __future__ import annotations

import asyncio

from chat_svc.store.accounts import AccountRow
from tests.chat_store.world import World


async def resolved(
    world: World, *users: str, make: bool = True, tenant: str = "default"
) -> dict[str, AccountRow]:
    return await world.store.accounts.resolve_accounts(tenant, users, make, world.new_ids)


async def test_an_account_is_made_with_all_that_belongs_to_it(world: World) -> None:
    assert await resolved(world, "ann", make=False) == {}
    made = await resolved(world, "ann", "ann", "bob")
    assert await resolved(world, "bob", "ann", "cid", make=False) == made
    ann = made["ann"]
    assert (ann.kind, ann.disabled) == (1, False)
    assert await world.store.accounts.users_of([ann.id, 987]) == {ann.id: "ann"}
    assert (await world.store.accounts.accounts_by_id([ann.id]))[ann.id] == (ann, "ann")
    assert await world.direct(ann, ann) > 0
    assert (await world.store.devices.heads([ann.id]))[ann.id].seq == 0


async def test_tenants_do_not_share_names(world: World) -> None:
    here = (await resolved(world, "same"))["same"]
    there = (await resolved(world, "same", tenant="two"))["same"]
    assert here.id != there.id
    assert here.tenant_id != there.tenant_id


async def test_names_that_cannot_be_stay_unknown(world: World) -> None:
    assert await resolved(world, "", "a\0b", "x" * 129) == {}
    longest = "ö" * 128
    assert list(await resolved(world, longest)) == [longest]


async def test_many_make_the_same_accounts_at_once(world: World) -> None:
    names = [f"new{n}" for n in range(20)]
    every = await asyncio.gather(
        *(resolved(world, *names[n:], *names[:n], tenant="fresh") for n in range(8))
    )
    assert all(found == every[0] for found in every)
    ((accounts, heads, selves),) = await world.ask(
        """
        SELECT count(*), count(h.account), count(c.id) FROM chat.account a
        JOIN chat.tenant t ON t.id = a.tenant AND t.name = 'fresh'
        LEFT JOIN chat.timeline_head h ON h.account = a.id AND h.tenant = a.tenant
        LEFT JOIN chat.conversation c ON c.id = a.self_conversation AND c.direct_low = a.id
        """
    )
    assert (accounts, heads, selves) == (20, 20, 20)


async def test_both_first_messages_at_once_meet_in_one_conversation(world: World) -> None:
    users = await world.users(5)
    pairs = [(a.id, b.id) for a in users for b in users if a.id <= b.id]
    tenant = users[0].tenant_id

    async def make(start: int) -> dict[tuple[int, int], int]:
        return await world.store.conversations.direct_conversations(
            tenant, pairs[start:] + pairs[:start], world.new_ids
        )

    every = await asyncio.gather(*(make(n) for n in range(8)))
    assert all(found == every[0] for found in every)
    assert sorted(every[0]) == sorted(pairs)
    assert len(set(every[0].values())) == len(pairs)


async def test_no_conversation_crosses_tenants(world: World) -> None:
    (one,) = await world.users(1)
    (foreign,) = await world.users(1, tenant="three")
    pair = (min(one.id, foreign.id), max(one.id, foreign.id))
    for tenant in (one.tenant_id, foreign.tenant_id):
        made = await world.store.conversations.direct_conversations(tenant, [pair], world.new_ids)
        assert made == {}


async def test_a_first_message_makes_contacts_unless_told_otherwise(world: World) -> None:
    one, two, three = await world.users(3)
    await world.direct(one, two)
    assert await world.store.accounts.contacts_of([one.id, two.id]) == {
        one.id: [two.id],
        two.id: [one.id],
    }
    pair = (one.id, three.id)
    await world.store.conversations.direct_conversations(
        one.tenant_id, [pair], world.new_ids, make_contacts=False
    )
    assert await world.store.accounts.contacts_of([three.id]) == {three.id: []}
    rows = await world.store.conversations.conversations(one.tenant_id, [987])
    assert rows == {}
