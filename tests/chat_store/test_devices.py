"""Devices: sessions, cursors, sign-out, and what push asks of them."""

from __future__ import annotations

import asyncio

import pytest

from chat_svc.store.accounts import AccountRow, NotificationSettings
from chat_svc.store.commit import EventFlag
from chat_svc.store.conversations import MemberChange
from chat_svc.store.devices import START_HEAD, START_OLDEST, CursorWrite, OpenedSession
from chatmesh.runtime.faults import Fault
from tests.chat_store.world import World


async def opened(
    world: World,
    account: AccountRow,
    device: str = "phone",
    *,
    cursor: tuple[int, int] | None = None,
    start: int = START_OLDEST,
    node: int = 1,
    most: int = 10,
) -> OpenedSession:
    return await world.store.devices.open_session(
        account.id, device, 1, "my phone", node, cursor, start, max_devices=most
    )


async def talk(world: World, count: int = 3) -> tuple[AccountRow, AccountRow, list[int]]:
    """Two accounts, and the message ids of `count` messages from the first to the second."""
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    outcomes = [(await world.commit(world.row(one, conversation)))[0] for _ in range(count)]
    return one, two, [outcome.message_id for outcome in outcomes]


async def test_a_new_device_starts_where_it_asks(world: World) -> None:
    _, two, ids = await talk(world)
    oldest = await opened(world, two, "a")
    assert (oldest.start_seq, oldest.acked_seq, oldest.head_seq, oldest.min_seq) == (0, 0, 3, 1)
    head = await opened(world, two, "b", start=START_HEAD)
    assert (head.start_seq, head.acked_seq, head.acked_id) == (3, 3, ids[2])
    assert (oldest.devices, head.devices) == (1, 2)
    assert head.session_no > oldest.session_no > 0
    assert oldest.previous_node_id == 0


async def test_a_cursor_counts_as_an_ack_when_it_names_what_is_there(world: World) -> None:
    one, two, ids = await talk(world)
    first = await opened(world, two)
    for cursor in ((4, 0), (2, ids[0]), (9, ids[2])):
        refused = await opened(world, two, cursor=cursor)
        assert not refused.cursor_ok
    good = await opened(world, two, cursor=(2, ids[1]), node=7)
    assert good.cursor_ok
    assert (good.start_seq, good.acked_seq, good.acked_id) == (2, 2, ids[1])
    assert good.session_no > first.session_no
    assert good.previous_node_id == 1
    lower = await opened(world, two, cursor=(1, ids[0]))
    assert (lower.start_seq, lower.acked_seq, lower.previous_node_id) == (1, 2, 7)
    unknown_id = await opened(world, two, cursor=(3, 0))
    assert (unknown_id.cursor_ok, unknown_id.acked_seq) == (True, 3)
    await world.ask("UPDATE chat.timeline_head SET min_seq = 3 WHERE account = %s", two.id)
    assert not (await opened(world, two, cursor=(1, ids[0]))).cursor_ok
    assert (await opened(world, two, cursor=(2, ids[1]))).cursor_ok
    assert (await opened(world, one, cursor=(0, 0))).cursor_ok


async def test_two_hellos_at_once_the_later_number_is_the_devices(world: World) -> None:
    (one,) = await world.users(1)
    both = await asyncio.gather(*(opened(world, one, node=n) for n in range(1, 9)))
    assert (await world.store.devices.heads([one.id]))[one.id].seq == 0
    ((devices,),) = await world.ask(
        "SELECT devices FROM chat.timeline_head WHERE account = %s", one.id
    )
    assert devices == 1
    newest = max(session.session_no for session in both)
    stored = await world.ask("SELECT session_no FROM chat.device WHERE account = %s", one.id)
    assert stored == [(newest,)]


async def test_only_the_newest_session_moves_the_cursor_and_only_forward(world: World) -> None:
    _, two, ids = await talk(world)
    old = await opened(world, two)
    new = await opened(world, two)
    devices = world.store.devices

    async def acked() -> int:
        return (await devices.list_devices(two.id))[0].acked_seq

    def write(session: OpenedSession, seq: int) -> CursorWrite:
        return CursorWrite(two.id, "phone", session.session_no, seq, ids[seq - 1])

    await devices.write_cursors([write(old, 3)])
    assert await acked() == 0
    await devices.write_cursors([write(new, 1), write(new, 2), write(new, 1), write(old, 3)])
    assert await acked() == 2
    await devices.write_cursors([write(new, 1)])
    assert await acked() == 2
    await devices.write_cursors([])


async def test_a_closed_session_leaves_its_device_without_node(world: World) -> None:
    (one,) = await world.users(1)
    node = await world.store.nodes.start_node("a", "127.0.0.1:1", 60_000)
    session = await opened(world, one, node=node)
    (device,) = await world.store.devices.list_devices(one.id)
    assert device.session_node == node
    again = await opened(world, one, node=node)
    assert (again.previous_node_id, again.previous_node_target) == (node, "127.0.0.1:1")
    await world.store.devices.close_sessions([(one.id, "phone", session.session_no)])
    assert (await world.store.devices.list_devices(one.id))[0].session_node == node
    await world.store.devices.close_sessions([(one.id, "phone", again.session_no)])
    assert (await world.store.devices.list_devices(one.id))[0].session_node == 0


async def test_signing_out_forgets_and_refuses(world: World) -> None:
    (one,) = await world.users(1)
    for name in ("a", "b", "c"):
        session = await opened(world, one, name)
    store = world.store.devices
    assert [d.device_id for d in await store.sign_out(one.id, ["b", "nothing"])] == ["b"]
    with pytest.raises(Fault, match="DEVICE_REFUSED"):
        await opened(world, one, "b")
    assert not await store.has_device(one.id, "b")
    assert {d.device_id for d in await store.sign_out(one.id, None)} == {"a", "c"}
    assert await store.list_devices(one.id) == []
    await store.write_cursors([CursorWrite(one.id, "c", session.session_no, 1, 1)])
    assert (await opened(world, one, "d")).devices == 1


async def test_an_account_has_a_greatest_number_of_devices(world: World) -> None:
    (one,) = await world.users(1)
    await opened(world, one, "a", most=2)
    await opened(world, one, "b", most=2)
    with pytest.raises(Fault, match="LIMIT_EXCEEDED"):
        await opened(world, one, "c", most=2)
    await opened(world, one, "a", most=2)


async def test_push_state_names_what_waits_and_is_loud(world: World) -> None:
    one, two, ids = await talk(world, 7)
    conversation = await world.direct(one, two)
    await opened(world, two)
    await opened(world, two, "tablet", start=START_HEAD)
    await world.store.devices.write_cursors(
        [CursorWrite(two.id, "phone", (await opened(world, two)).session_no, 1, ids[0])]
    )
    ask = [(two.id, "phone"), (two.id, "gone"), (two.id, "tablet"), (987, "x")]
    phone, gone, tablet, nobody = await world.store.push_state.push_state(ask)
    assert (phone.exists, phone.acked_seq, phone.notify_seq, phone.badge) == (True, 1, 7, 7)
    assert phone.visible
    assert phone.pending_count == 6
    assert [p.timeline_seq for p in phone.pending] == [3, 4, 5, 6, 7]
    assert phone.pending[-1].message_id == ids[6]
    assert (gone.exists, nobody.exists, tablet.exists) == (False, False, True)
    assert (tablet.pending, tablet.visible, tablet.badge) == ([], False, 7)

    async def pending() -> tuple[list[int], bool, int]:
        (state,) = await world.store.push_state.push_state([(two.id, "phone")])
        return [p.timeline_seq for p in state.pending], state.visible, state.badge

    await world.commit(
        world.row(one, conversation, flags=EventFlag.VISIBLE),
        world.row(one, conversation, mentions=[two.id]),
    )
    # mentions only
    await world.store.conversations.update_member_state(
        two.id, conversation, MemberChange(read_message_no=3, mute=2)
    )
    assert await pending() == ([9], True, 6)
    await world.store.conversations.update_member_state(two.id, conversation, MemberChange(mute=3))
    assert await pending() == ([], False, 6)
    await world.store.conversations.update_member_state(
        two.id, conversation, MemberChange(mute=3, mute_until_ms=1)
    )
    assert (await pending())[0] == [4, 5, 6, 7, 9]
    always = NotificationSettings(1, 0, 1_439, "Europe/Berlin")
    await world.store.accounts.set_notification_settings(two.id, always)
    (state,) = await world.store.push_state.push_state([(two.id, "phone")])
    assert state.pending
    nearly = NotificationSettings(1, 5, 5, "no/where")
    await world.store.accounts.set_notification_settings(two.id, nearly)
    assert (await pending())[1]


async def test_heads_and_push_devices(world: World) -> None:
    one, two, _ = await talk(world)
    await world.store.devices.set_push_devices(two.id, 3)
    heads = await world.store.devices.heads([one.id, two.id, 987])
    assert {account: head.seq for account, head in heads.items()} == {one.id: 3, two.id: 3}
    (outcome,) = await world.commit(world.row(one, await world.direct(one, two)))
    assert {r.account: r.pushable for r in outcome.recipients} == {one.id: False, two.id: True}
