"""What comes back while an account is being erased goes with its name."""

from __future__ import annotations

from chat_svc.store.devices import START_OLDEST
from chat_svc.store.erasure import Stage
from tests.chat_store.world import NODE, World


async def test_who_writes_to_it_meanwhile_does_not_keep_its_name(world: World) -> None:
    """A first message makes its conversation and contacts before the commit refuses it; a node
    that has not heard yet lets a device in."""
    gone, friend, stranger = await world.users(3)
    await world.direct(gone, friend)
    erasure = world.store.erasure
    await world.ask("UPDATE chat.timeline_head SET disabled = true WHERE account = %s", gone.id)
    at = await erasure.begin("default", world.name_of(gone))
    assert at is not None
    at = await erasure.move(at, Stage.RELATIONS)
    while at.stage is not Stage.ELSEWHERE:
        at, _ = await erasure.step(at)

    late = await world.direct(gone, stranger)
    opened = await world.store.devices.open_session(
        gone.id, "late", 1, "", NODE, None, START_OLDEST, max_devices=10
    )
    assert opened.session_no > 0
    await erasure.finish(at, "admin")

    assert await world.ask("SELECT id FROM chat.account WHERE id = %s", gone.id) == []
    for query in (
        "SELECT 1 FROM chat.contact WHERE %s IN (owner, other)",
        "SELECT 1 FROM chat.device WHERE account = %s",
        "SELECT 1 FROM chat.member WHERE account = %s",
        "SELECT 1 FROM chat.member_interval WHERE account = %s",
    ):
        assert await world.ask(query, gone.id) == []
    assert await world.ask("SELECT account FROM chat.member WHERE conversation = %s", late) == [
        (stranger.id,)
    ]
    ((devices,),) = await world.ask(
        "SELECT devices FROM chat.timeline_head WHERE account = %s", gone.id
    )
    assert devices == 0
