"""Who sees what of whom, end to end: by the session, by a call, and while they type.

Alice is on one node, who looks at her on the other. Each row begins as contacts who share a group
(strangers share it, too), so what is hidden must disappear.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import grpc
import pytest

from chatmesh.embedded.running import RunningMesh
from chatmesh.runtime.faults import Fault, from_rpc_error
from chatmesh.v1 import contacts_pb2, session_pb2, types_pb2
from tests.presence.people import BLOCK, REMOVE, UNBLOCK, Make, Person, Presence, people_of

pytestmark = pytest.mark.mesh

ONLINE = types_pb2.PRESENCE_STATE_ONLINE
OFFLINE = types_pb2.PRESENCE_STATE_OFFLINE
INVISIBLE = types_pb2.PRESENCE_STATE_INVISIBLE
DO_NOT_DISTURB = types_pb2.PRESENCE_STATE_DO_NOT_DISTURB
NOBODY = contacts_pb2.AUDIENCE_NOBODY


class Row(NamedTuple):
    """What the viewer sees of Alice after `change`."""

    name: str
    change: Callable[[Person, Person], Awaitable[None]]
    state: int
    text: str
    last_seen: bool
    typing: bool
    is_contact: bool = True


async def nothing(alice: Person, viewer: Person) -> None:
    """They stay as they are."""


MATRIX = [
    Row("contact", nothing, DO_NOT_DISTURB, "busy", last_seen=True, typing=True),
    Row("stranger", nothing, OFFLINE, "", last_seen=False, typing=False, is_contact=False),
    Row("blocked", lambda a, v: a.contact(BLOCK, v), OFFLINE, "", last_seen=False, typing=False),
    Row("blocking", lambda a, v: v.contact(BLOCK, a), OFFLINE, "", last_seen=False, typing=False),
    Row("removed", lambda a, v: a.contact(REMOVE, v), OFFLINE, "", last_seen=False, typing=False),
    Row(
        "invisible", lambda a, v: a.wishes(INVISIBLE),
        OFFLINE, "busy", last_seen=True, typing=True,
    ),
    Row(
        "presence for nobody", lambda a, v: a.privacy(presence=NOBODY),
        OFFLINE, "", last_seen=True, typing=True,
    ),
    Row(
        "last seen for nobody", lambda a, v: a.privacy(last_seen=NOBODY),
        DO_NOT_DISTURB, "busy", last_seen=False, typing=True,
    ),
    Row(
        "typing for nobody", lambda a, v: a.privacy(typing=NOBODY),
        DO_NOT_DISTURB, "busy", last_seen=True, typing=False,
    ),
]  # fmt: skip


@pytest.fixture
async def make(running_mesh: RunningMesh) -> AsyncIterator[Make]:
    async with people_of(running_mesh) as made:
        yield made


def is_as(row: Row) -> Callable[[Presence], bool]:
    """As the row says, while Alice is there."""
    return lambda seen: (seen.state, seen.status_text) == (row.state, row.text)


@pytest.mark.parametrize("row", MATRIX, ids=[row.name for row in MATRIX])
async def test_the_matrix(make: Make, row: Row) -> None:
    alice, viewer, witness = await make("alice", 0), await make("viewer", 1), await make("w", 0)
    await viewer.befriend(witness)
    if row.is_contact:
        await alice.befriend(viewer)
    group = await alice.group(viewer, witness)
    await alice.wishes(DO_NOT_DISTURB, "busy")
    await alice.asks_until(alice.user, lambda seen: seen.status_text == "busy")
    if row.is_contact:
        await viewer.sees(alice.user, lambda seen: seen.status_text == "busy")
    await viewer.sees(witness.user, lambda seen: seen.state == ONLINE)
    # what the viewer is told, and what they find
    await row.change(alice, viewer)
    if row.is_contact:
        await viewer.sees(alice.user, is_as(row))
    if row.change is not nothing:
        await viewer.asks_until(alice.user, is_as(row))
    (found,) = await viewer.asks(alice.user)
    assert is_as(row)(found)
    # the time at which she went out of sight is shown as that of one who left
    assert bool(found.last_seen_ms) == (row.name == "invisible")
    assert bool(found.online_kinds) == (row.state != OFFLINE)
    # typing: the witness's comes later by the same way
    await alice.types(group)
    await alice.device.answered(await alice.device.send("x", to="", conversation_id=group))
    await witness.device.until(lambda: "x" in witness.device.texts())
    await witness.types(group)
    await viewer.device.until(lambda: witness.user in viewer.saw_typing())
    assert (alice.user in viewer.saw_typing()) is row.typing
    # last seen
    await alice.hang_up()
    await alice.asks_until(alice.user, lambda seen: seen.state == OFFLINE)
    (found,) = await viewer.asks(alice.user)
    assert (found.state, bool(found.last_seen_ms)) == (OFFLINE, row.last_seen)
    if row.is_contact:
        await viewer.sees(alice.user, lambda seen: bool(seen.last_seen_ms) == row.last_seen)
    else:
        assert viewer.shown(alice.user) == []


async def refused(call: Awaitable[object]) -> Fault:
    """How a call ends."""
    with pytest.raises(grpc.aio.AioRpcError) as found:
        await call
    return from_rpc_error(found.value)


async def test_the_blocked_find_nobody_and_are_never_told(make: Make) -> None:
    alice, mallory, witness = await make("alice", 0), await make("mallory", 1), await make("w", 1)
    await alice.befriend(mallory)
    common = await witness.group(alice, mallory)
    his = await mallory.group(witness)
    before = await mallory.contacts()
    await alice.contact(BLOCK, mallory)
    await mallory.sees(alice.user, lambda seen: seen.state == OFFLINE)
    # to him she is as somebody who is not there
    fault = await refused(mallory.adds(his, alice))
    assert fault.reason == "NOT_REACHABLE"
    (result,) = await mallory.device.answered(await mallory.device.send("let me in", to=alice.user))
    assert result.problem.reason == "NOT_REACHABLE"
    assert not any("block" in text.lower() for text in (fault.message, result.problem.message))
    hers, nobodys = await mallory.asks(alice.user, "nobody-at-all")
    hers.user_id = nobodys.user_id
    assert hers == nobodys
    # in the common group both go on
    for one, other, text in ((mallory, alice, "to all"), (alice, mallory, "and back")):
        await one.device.answered(await one.device.send(text, to="", conversation_id=common))
        await other.device.until(lambda other=other, text=text: text in other.device.texts())  # type: ignore[misc]
    # he was told nothing
    told = [entry.event.content.account for entry in mallory.device.stored]
    assert all(note.state in ("", "incoming", "accepted", "requested") for note in told)
    assert await mallory.contacts() == before
    # and it ends
    await alice.contact(UNBLOCK, mallory)
    assert "let me in" not in alice.device.texts()


async def test_who_is_watched_by_name_is_told_anew_and_strangers_are_not(make: Make) -> None:
    alice, viewer, stranger = await make("alice", 0), await make("viewer", 1), await make("s", 1)
    await alice.befriend(viewer)
    await viewer.sees(alice.user, lambda seen: seen.state == ONLINE)
    before = len(viewer.shown(alice.user))
    group = await alice.group(viewer, stranger)
    watch = session_pb2.Watch(user_ids=[stranger.user, "nobody"], open_conversation_id=group)
    await viewer.device.say(watch=watch)
    await viewer.device.until(lambda: len(viewer.shown(alice.user)) > before)
    assert viewer.shown(alice.user)[-1].state == ONLINE
    assert viewer.shown(stranger.user) == []


async def test_a_wish_survives_a_new_session(make: Make) -> None:
    alice, viewer = await make("alice", 0), await make("viewer", 1)
    await alice.befriend(viewer)
    await alice.wishes(INVISIBLE, "here")
    await alice.asks_until(alice.user, lambda seen: seen.state == INVISIBLE)
    await alice.hang_up()
    await alice.open()
    await alice.sees(alice.user, lambda seen: seen.state == INVISIBLE)
    await alice.wishes(ONLINE)
    await viewer.sees(alice.user, lambda seen: seen.state == ONLINE)
    assert all(seen.status_text == "here" for seen in viewer.shown(alice.user)[-1:])
