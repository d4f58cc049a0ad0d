"""Presence of people on a real mesh while its parts die, stop, and lose sight of each other."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from chatmesh.ids import DEFAULT_LAYOUT
from chatmesh.runtime import redis
from chatmesh.testing.presence_checks import GivenId, ids_are_distinct
from chatmesh.v1 import types_pb2
from tests.presence.broken import CUT, DIES, GOOD, STOPS, BrokenMesh, broken_mesh
from tests.presence.people import Make, Person, people_of

pytestmark = [pytest.mark.mesh, pytest.mark.slow]

ONLINE = types_pb2.PRESENCE_STATE_ONLINE
OFFLINE = types_pb2.PRESENCE_STATE_OFFLINE
INVISIBLE = types_pb2.PRESENCE_STATE_INVISIBLE


@pytest.fixture(scope="module")
async def broken() -> AsyncIterator[BrokenMesh]:
    async with broken_mesh() as mesh:
        yield mesh


@pytest.fixture
async def make(broken: BrokenMesh) -> AsyncIterator[Make]:
    async with people_of(broken.mesh.running) as made:
        yield made


def states(watcher: Person, other: Person) -> list[int]:
    """What was shown of somebody, without repeats."""
    seen = [presence.state for presence in watcher.shown(other.user)]
    return [state for at, state in enumerate(seen) if at == 0 or seen[at - 1] != state]


async def all_friends(friend: Person, *others: Person) -> None:
    """Who sees all of them online."""
    for other in others:
        await friend.befriend(other)
        await friend.sees(other.user, lambda seen: seen.state == ONLINE)


async def test_nodes_that_die_stop_or_lose_sight_of_presence(
    broken: BrokenMesh, make: Make
) -> None:
    """All three at once: their users are offline within the lease, and come back as they may."""
    friend = await make("friend", GOOD)
    dead, frozen, cut = await make("dead", DIES), await make("frozen", STOPS), await make("c", CUT)
    await all_friends(friend, dead, frozen, cut)
    broken.to_presence.refuse()
    broken.to_presence.cut_all()
    broken.mesh.kill(broken.name(STOPS), signal.SIGSTOP)
    await asyncio.to_thread(broken.mesh.hold, broken.name(DIES), signal.SIGKILL)
    for other in (dead, frozen, cut):
        await friend.sees(other.user, lambda seen: seen.state == OFFLINE)
    # who is cut off from presence alone goes on talking
    await cut.device.answered(await cut.device.send("still here", to=friend.user))
    await friend.device.answered(await friend.device.send("I know", to=cut.user))
    await friend.device.until(lambda: "still here" in friend.device.texts())
    await cut.device.until(lambda: "I know" in cut.device.texts())
    # the frozen one's device moves; its old session is never to come back
    moved = Person(broken.mesh.running, frozen.user, GOOD)
    await moved.open()
    try:
        await friend.sees(frozen.user, lambda seen: seen.state == ONLINE)
        broken.mesh.kill(broken.name(STOPS), signal.SIGCONT)
        await frozen.device.until(lambda: frozen.device.end is not None)
        broken.to_presence.heal()
        await friend.sees(cut.user, lambda seen: seen.state == ONLINE)
    finally:
        await moved.close()
    await friend.sees(frozen.user, lambda seen: seen.state == OFFLINE)
    await asyncio.to_thread(broken.mesh.release, broken.name(DIES))
    await asyncio.to_thread(broken.mesh.wait_ready)
    await dead.hang_up()
    await dead.open()
    await friend.sees(dead.user, lambda seen: seen.state == ONLINE)
    for other in (dead, cut):
        assert states(friend, other)[-3:] == [ONLINE, OFFLINE, ONLINE], "no flap"
    assert states(friend, frozen)[-4:] == [ONLINE, OFFLINE, ONLINE, OFFLINE]


async def test_a_replica_is_cut_off_from_redis_and_killed_and_nobody_is_shown_offline(
    broken: BrokenMesh, make: Make
) -> None:
    friend, other = await make("friend", GOOD), await make("other", STOPS)
    await all_friends(friend, other)
    broken.to_redis.refuse()
    broken.to_redis.cut_all()
    late = await make("late", DIES)
    await all_friends(friend, late)
    broken.to_redis.heal()
    await asyncio.to_thread(broken.mesh.wait_ready)
    for name in ("presence", "presence-2"):
        await asyncio.to_thread(broken.mesh.hold, name, signal.SIGKILL)
        last = await make(f"after-{name}", STOPS)
        if name == "presence":
            await all_friends(friend, last)
        await asyncio.to_thread(broken.mesh.release, name)
        await asyncio.to_thread(broken.mesh.wait_ready)
        if name == "presence-2":
            await all_friends(friend, last)
    for one in (other, late):
        assert OFFLINE not in states(friend, one)[states(friend, one).index(ONLINE) :]


async def test_redis_loses_everything(broken: BrokenMesh, make: Make) -> None:
    """Rebuilt from the nodes once; nobody is shown offline, who is invisible stays it."""
    friend = await make("friend", GOOD)
    others = [await make(f"o{number}", node) for number, node in enumerate((GOOD, DIES, STOPS))]
    hidden = await make("hidden", STOPS)
    await hidden.wishes(INVISIBLE, "secret")
    await hidden.asks_until(hidden.user, lambda seen: seen.state == INVISIBLE)
    await all_friends(friend, *others)
    await friend.befriend(hidden)
    await friend.sees(hidden.user, lambda seen: seen.state == OFFLINE)
    newcomer = await make("newcomer", CUT)
    await newcomer.befriend(hidden)
    await newcomer.hang_up()
    replicas = ("presence", "presence-2")
    name = "chatmesh_presence_reattaches_total"
    before = sum([await broken.metric(one, name) for one in replicas])
    client = redis.client(broken.valkey.url)
    await client.flushall()
    await client.aclose()
    for one in (*others, hidden):
        await one.asks_until(one.user, lambda seen: seen.state in (ONLINE, INVISIBLE))
    await newcomer.open()  # whoever watches from now on knows nothing of before
    await newcomer.sees(hidden.user, lambda seen: seen.state == OFFLINE)
    await hidden.wishes(ONLINE)
    await newcomer.sees(hidden.user, lambda seen: seen.status_text == "secret")
    assert {seen.state for seen in newcomer.shown(hidden.user)} <= {OFFLINE, ONLINE}
    after = sum([await broken.metric(one, name) for one in replicas])
    assert before + 3 <= after <= before + 3 * 4, "each node that had sessions, a few times at most"
    for one in others:
        shown = states(friend, one)
        assert OFFLINE not in shown[shown.index(ONLINE) :]
    assert {seen.state for seen in friend.shown(hidden.user)} <= {OFFLINE, ONLINE}


async def test_a_sequencer_dies_and_ids_come_from_the_other(broken: BrokenMesh, make: Make) -> None:
    """Either of two may die: what is sent while it is gone is accepted by the other's ids."""
    one, other = await make("one", GOOD), await make("other", DIES)
    workers: set[int] = set()
    for name in ("sequencer", "sequencer-2"):
        await asyncio.to_thread(broken.mesh.hold, name, signal.SIGKILL)
        for number in range(3):
            keys = await one.device.send(f"{name} {number}", to=other.user)
            keys += await other.device.send(f"{name} {number}", to=one.user)
            for sender, key in zip((one, other), keys, strict=True):
                (result,) = await sender.device.answered([key])
                assert not result.HasField("problem"), result.problem
                workers.add(DEFAULT_LAYOUT.decode(result.message_id).worker)
        await asyncio.to_thread(broken.mesh.release, name)
        if name == "sequencer":
            await asyncio.to_thread(broken.mesh.wait_ready)
    assert len(workers) > 1
    given = [GivenId(entry.event.message_id, 0) for entry in other.device.stored]
    assert list(ids_are_distinct(given)) == []
