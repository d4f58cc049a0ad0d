"""Wall clocks of a chat node, of Valkey and of PostgreSQL step by an hour under a conversation.

No send is refused, no order breaks, nobody flaps more than once: every place of a message is a
number, and leases are measured by clocks that nobody sets.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from chatmesh.embedded.supervisor import Mesh, MeshOptions
from chatmesh.v1 import types_pb2
from tests.presence.people import Person, people_of
from tests.runtime import stores
from tests.sequencer.clocks import LyingClock, clocks

pytestmark = [pytest.mark.mesh, pytest.mark.slow]

HOUR = 3_600
ONLINE, OFFLINE = types_pb2.PRESENCE_STATE_ONLINE, types_pb2.PRESENCE_STATE_OFFLINE


@dataclass
class Stepped:
    """A mesh with three clocks of their own."""

    mesh: Mesh
    clocks: dict[str, LyingClock]


@pytest.fixture(scope="module")
def stepped() -> Iterator[Stepped]:
    with clocks() as maker:
        made = {name: maker.make(name) for name in ("node", "valkey", "postgres")}
        with (
            stores.postgres(environment=made["postgres"].environment) as postgres,
            stores.valkey(environment=made["valkey"].environment) as valkey,
            tempfile.TemporaryDirectory(prefix="cm-") as folder,
        ):
            options = MeshOptions(
                data=Path(folder) / "data",
                ports="auto",
                postgres_url=postgres.url,
                redis_url=valkey.url,
                environment={"chat-2": made["node"].environment},
            )
            mesh = Mesh(options)
            mesh.start()
            try:
                yield Stepped(mesh, made)
            finally:
                mesh.stop(hurry=True)


async def talk(one: Person, other: Person, text: str) -> None:
    """Both say something that the other gets."""
    for sender, receiver in ((one, other), (other, one)):
        said = f"{text} of {sender.user}"
        (result,) = await sender.device.answered(await sender.device.send(said, to=receiver.user))
        assert not result.HasField("problem"), result.problem
        await receiver.device.through(lambda r=receiver, said=said: said in r.device.texts())  # type: ignore[misc]


STEPS: tuple[dict[str, int], ...] = (
    {"node": 1, "postgres": -1},
    {"node": -1, "valkey": 1},
    {"valkey": -1, "postgres": 1},
    {},
)
"""Hours by which each clock is off, one after the other; what is not named is right."""
ROUNDS = 6
PAUSE_SECONDS = 0.5
"""Each state of the clocks lasts longer than a node's beat: leases are renewed and judged in it."""


async def test_clocks_step_and_nobody_notices(stepped: Stepped) -> None:
    async with people_of(stepped.mesh.running) as make:
        alice, bob = await make("alice", 0), await make("bob", 1)
        await alice.befriend(bob)
        await alice.sees(bob.user, lambda seen: seen.state == ONLINE)
        for number, hours in enumerate(STEPS):
            for name, clock in stepped.clocks.items():
                clock.step(hours.get(name, 0) * HOUR)
            for turn in range(ROUNDS):
                await talk(alice, bob, f"{number}/{turn}")
                await asyncio.sleep(PAUSE_SECONDS)
        texts = [text for text in alice.device.texts() if text]  # else of the contact
        assert texts == [text for text in bob.device.texts() if text]
        assert len(texts) == len(set(texts)) == 2 * ROUNDS * len(STEPS)
        # what presence believes of both is what is true
        for one, other in ((alice, bob), (bob, alice)):
            await one.asks_until(other.user, lambda seen: seen.state == ONLINE)
            shown = [seen.state for seen in one.shown(other.user)]
            falls = [
                at for at in range(1, len(shown)) if shown[at - 1 : at + 1] == [ONLINE, OFFLINE]
            ]
            assert len(falls) <= 1, "at most one flap"
    await asyncio.to_thread(stepped.mesh.wait_ready)
