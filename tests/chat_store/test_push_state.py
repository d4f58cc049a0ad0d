"""What push is told of a device beside what waits: tenant, kind, mentions, sessions elsewhere."""

from __future__ import annotations

from chat_svc.core.contacts import ContactAction
from chat_svc.store.push_state import PushStateRow
from chat_svc.store.self_log import Owner
from tests.chat_store.test_devices import opened, talk
from tests.chat_store.world import MESSAGE, NODE, World


async def state(world: World, account: int, node: int = 0) -> PushStateRow:
    (found,) = await world.store.push_state.push_state([(account, "phone")], node)
    return found


async def test_tenant_and_kind_are_told(world: World) -> None:
    (one,) = await world.users(1, "acme")
    await opened(world, one)
    found = await state(world, one.id)
    assert found.tenant == "acme"
    assert found.kind == (await world.store.devices.list_devices(one.id))[0].kind


async def test_a_session_on_another_living_node_counts_as_active(world: World) -> None:
    (one,) = await world.users(1)
    here = await world.store.nodes.start_node("here", "127.0.0.1:1", 60_000)
    there = await world.store.nodes.start_node("there", "127.0.0.1:2", 60_000)
    dead = await world.store.nodes.start_node("dead", "127.0.0.1:3", 0)
    await opened(world, one, node=there)
    assert not (await state(world, one.id, here)).active_elsewhere, "its own session is not another"
    tablet = await opened(world, one, "tablet", node=there)
    assert (await state(world, one.id, here)).active_elsewhere
    assert not (await state(world, one.id, there)).active_elsewhere, "that node sees it itself"
    tablet = await opened(world, one, "tablet", node=dead)
    assert not (await state(world, one.id, here)).active_elsewhere, "its lease is over"
    tablet = await opened(world, one, "tablet", node=there)
    await world.store.devices.close_sessions([(one.id, "tablet", tablet.session_no)])
    assert not (await state(world, one.id, here)).active_elsewhere


async def test_mentions_are_counted_and_shown_before_older_news(world: World) -> None:
    one, two, _ = await talk(world, 1)
    await opened(world, two)
    conversation = await world.direct(one, two)
    await world.commit(
        world.row(one, conversation, mentions=[two.id]),
        *(world.row(one, conversation, flags=MESSAGE) for _ in range(6)),
    )
    found = await state(world, two.id)
    assert (found.pending_count, found.pending_mentions) == (8, 1)
    assert [row.timeline_seq for row in found.pending] == [2, 5, 6, 7, 8], (
        "the newest is one of them"
    )
    assert [row.mention for row in found.pending] == [True, False, False, False, False]


async def test_what_its_reader_hid_or_a_blocked_sender_said_is_not_shown(world: World) -> None:
    owner, noisy, reader = await world.users(3)
    group = await world.group(owner, noisy, reader)
    await opened(world, reader)
    first, _, _ = await world.commit(
        world.row(owner, group, "hidden"),
        world.row(noisy, group, "of somebody blocked"),
        world.row(owner, group, "shown"),
    )
    assert (await state(world, reader.id)).pending_count == 3
    log = Owner(reader.tenant_id, reader.id, world.name_of(reader), NODE)
    await world.store.self_log.hide(log, group, first.conversation_seq, ids=await world.new_ids(2))
    await world.store.relations.change(
        world.request(reader), noisy.id, world.name_of(noisy), ContactAction.BLOCK,
        ids=await world.new_ids(3),
    )  # fmt: skip
    found = await state(world, reader.id)
    assert found.pending_count == 1
    assert b"shown" in found.pending[0].body
