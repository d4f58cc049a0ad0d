"""Wishes kept where Redis cannot lose them; contacts of many accounts at once."""

from __future__ import annotations

import time

from chat_svc.core.contacts import ContactAction
from chat_svc.store.accounts import AccountRow
from chat_svc.store.presence import WishChange, WishRow
from tests.chat_store.world import World

ONLINE, DO_NOT_DISTURB, INVISIBLE = 3, 4, 5


async def befriend(world: World, one: AccountRow, other: AccountRow) -> None:
    for actor, action, peer in (
        (one, ContactAction.REQUEST, other),
        (other, ContactAction.ACCEPT, one),
    ):
        await act(world, actor, action, peer)


async def act(world: World, one: AccountRow, action: ContactAction, other: AccountRow) -> None:
    await world.store.relations.change(
        world.request(one), other.id, world.name_of(other), action, ids=await world.new_ids(3)
    )


async def test_wishes_are_kept_field_by_field_and_their_numbers_rise(world: World) -> None:
    store = world.store.presence
    one, two, three = await world.users(3)
    everybody = [one.id, two.id, three.id]
    await store.write_wishes([WishChange(one.id, INVISIBLE), WishChange(two.id, text="am Meer 🏖")])
    first = await store.wishes_of(everybody)
    assert set(first) == {one.id, two.id}, "who never chose has none"
    assert (first[one.id].state, first[one.id].text) == (INVISIBLE, "")
    assert (first[two.id].state, first[two.id].text) == (ONLINE, "am Meer 🏖")
    later = int(time.time() * 1000) + 3_600_000
    await store.write_wishes(
        [WishChange(one.id, text="x", until_ms=later), WishChange(two.id, DO_NOT_DISTURB)]
    )
    second = await store.wishes_of(everybody)
    assert (second[one.id].state, second[one.id].text) == (INVISIBLE, "x")
    assert second[one.id].until_ms == later
    assert (second[two.id].state, second[two.id].text) == (DO_NOT_DISTURB, "am Meer 🏖")
    assert all(second[key].wish_no > first[key].wish_no for key in first)


async def test_a_text_that_has_ended_is_empty(world: World) -> None:
    (one,) = await world.users(1)
    await world.store.presence.write_wishes([WishChange(one.id, INVISIBLE, "lunch", 1)])
    (found,) = (await world.store.presence.wishes_of([one.id])).values()
    assert found == WishRow(one.id, INVISIBLE, "", 0, found.wish_no)


def test_two_choices_are_one() -> None:
    text = WishChange(7, text="hi", until_ms=9)
    assert WishChange(7, INVISIBLE).after(text) == WishChange(7, INVISIBLE, "hi", 9)
    assert text.after(WishChange(7, INVISIBLE, "old", 3)) == WishChange(7, INVISIBLE, "hi", 9)
    assert text.after(None) == text
    assert WishChange(7, ONLINE, "").after(text) == WishChange(7, ONLINE, "", 0)


async def test_contacts_of_many_at_once(world: World) -> None:
    store = world.store.presence
    one, friend, asked, blocked, stranger = await world.users(5)
    await befriend(world, one, friend)
    await befriend(world, one, blocked)
    await act(world, one, ContactAction.REQUEST, asked)
    others = [friend, asked, blocked, stranger]
    both = [pair for other in others for pair in ((one.id, other.id), (other.id, one.id))]
    everybody = sorted(
        {(one.id, friend.id), (friend.id, one.id)} | {(one.id, blocked.id), (blocked.id, one.id)}
    )
    assert sorted(await store.contact_pairs(both)) == everybody
    assert await store.contacts_of([one.id, stranger.id], 10) == {
        one.id: sorted((friend.id, blocked.id)),
        stranger.id: [],
    }
    assert await store.contacts_of([one.id], 1) == {one.id: [min(friend.id, blocked.id)]}
    await act(world, blocked, ContactAction.BLOCK, one)
    assert await store.contact_pairs(both) == {(one.id, friend.id), (friend.id, one.id)}
    assert await store.contacts_of([one.id, blocked.id], 10) == {
        one.id: [friend.id],
        blocked.id: [],
    }
    assert await store.contact_pairs([]) == set()


async def test_who_shares_a_conversation(world: World) -> None:
    one, two, three = await world.users(3)
    await world.direct(one, two)
    found = await world.store.presence.sharing(one.id, [two.id, three.id])
    assert found == {two.id}
