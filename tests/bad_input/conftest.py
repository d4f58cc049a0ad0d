"""A stranger for every row, and two friends who must not notice anything."""

import itertools
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from chatmesh.cli.bench.h2 import GrpcConnection, connect
from chatmesh.embedded.running import RunningMesh
from chatmesh.testing.mesh import start_mesh
from tests.bad_input.people import Friends, Stranger
from tests.raw import RawSession

ENVIRONMENT = {
    "CHATMESH_UNKNOWN_RECIPIENTS": "refuse",  # as in production
    "CHATMESH_LIMIT_HELLO_TIMEOUT_SECONDS": "1",
}
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def running_mesh() -> Iterator[RunningMesh]:
    """A mesh of their own, where whoever never signed in cannot be written to."""
    with start_mesh(environment={"chat_svc": ENVIRONMENT}) as started:
        yield started.mesh.running


@pytest.fixture(scope="module")
async def channels(running_mesh: RunningMesh) -> AsyncIterator[list[grpc.aio.Channel]]:
    """One to each chat node."""
    made = [grpc.aio.insecure_channel(target) for target in running_mesh.public]
    yield made
    for channel in made:
        await channel.close()


@pytest.fixture(scope="module")
async def connection(running_mesh: RunningMesh) -> AsyncIterator[GrpcConnection]:
    """To the first node, for single calls."""
    made = await connect(running_mesh.public[0])
    yield made
    made.close()


@pytest.fixture
async def stranger(
    running_mesh: RunningMesh, channels: list[grpc.aio.Channel], connection: GrpcConnection
) -> Stranger:
    """Somebody new on the first node, where Alice's session is."""
    number = next(_numbers)
    user, peer = f"stranger-{number}", f"peer-{number}"
    async with RawSession(channels[1], running_mesh.token(peer)) as session:
        await session.hello()
    return Stranger(user, running_mesh.token(user), peer, channels[0], connection)


@pytest.fixture(scope="module")
async def friends(
    running_mesh: RunningMesh, channels: list[grpc.aio.Channel]
) -> AsyncIterator[Friends]:
    """Both sessions live for the whole module."""
    number = next(_numbers)
    alice, bob = f"alice-{number}", f"bob-{number}"
    async with (
        RawSession(channels[0], running_mesh.token(alice)) as of_alice,
        RawSession(channels[1], running_mesh.token(bob)) as of_bob,
    ):
        await of_alice.hello()
        await of_bob.hello()
        made = Friends(of_alice, of_bob, bob)
        async with RawSession(
            channels[0], running_mesh.token("elsewhere", tenant="other")
        ) as of_another_tenant:
            await of_another_tenant.hello()
        await made.talk()
        yield made
