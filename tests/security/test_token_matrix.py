"""Bad tokens × public RPCs, on a running chat node: no RPC was forgotten.

Both sides are generated: methods from the descriptors, tokens from `bad_tokens`. The good token
that all bad ones differ from must get past the door of every method, else the matrix would prove
nothing.
"""

from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from chatmesh.cli.bench.h2 import GrpcConnection, connect
from chatmesh.embedded import keys
from chatmesh.embedded.running import RunningMesh
from tests.contract.descriptors import mesh_methods, public_methods
from tests.raw import RawSession, bearer, call
from tests.security.bad_tokens import BadToken, Forge, bad_tokens
from tests.security.methods import PUBLIC, missing_from_matrix, public_request

pytestmark = pytest.mark.mesh
UNGUARDED = "/grpc.health.v1.Health/Check"
"""The one call that needs no token: probes have none."""


@pytest.fixture(scope="module")
def forge(running_mesh: RunningMesh) -> Forge:
    return Forge(keys.development_secret(running_mesh.folder).read_text())


@pytest.fixture(scope="module")
def rows(forge: Forge) -> list[BadToken]:
    return bad_tokens(forge.secret)


@pytest.fixture(scope="module")
async def door(running_mesh: RunningMesh) -> AsyncIterator[GrpcConnection]:
    made = await connect(running_mesh.public[0])
    yield made
    made.close()


@pytest.fixture(scope="module")
async def channel(running_mesh: RunningMesh) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(running_mesh.public[0]) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def says_how_large(rows: list[BadToken]) -> Iterator[None]:
    yield
    print(
        f"\ntoken matrix: {len(rows)} bad tokens × {len(PUBLIC)} public RPCs = "
        f"{len(rows) * len(PUBLIC)} cases"
    )


def test_no_method_is_missing_from_the_matrix() -> None:
    assert missing_from_matrix() == set()
    assert PUBLIC.keys() == public_methods().keys()


@pytest.mark.parametrize("path", PUBLIC)
async def test_every_bad_token_is_refused(
    path: str, rows: list[BadToken], door: GrpcConnection
) -> None:
    request = public_request(path)
    wrong = []
    # with a request that would do harm; a stream, which may be opened silently, with none as well
    requests = [[request], []] if public_methods()[path].client_streaming else [[request]]
    for bad in rows:
        for sent in requests:
            end = await call(door, path, bad.metadata, sent)
            if (end.status, end.reason) != ("UNAUTHENTICATED", bad.reason):
                wrong.append(f"{bad.name}: {end}")
    assert wrong == []


@pytest.mark.parametrize("path", PUBLIC)
async def test_the_good_token_gets_past_the_door(
    path: str, forge: Forge, door: GrpcConnection
) -> None:
    """Behind the door the request is looked at, and found to be none."""
    end = await call(door, path, bearer(forge.good()), [b"\xff"])
    assert (end.status, end.reason) == ("INVALID_ARGUMENT", "UNDECODABLE")


@pytest.mark.parametrize("path", mesh_methods())
async def test_mesh_methods_are_not_on_the_public_port(
    path: str, forge: Forge, door: GrpcConnection
) -> None:
    end = await call(door, path, (*bearer(forge.good()), ("chatmesh-caller", "chat_svc")))
    assert end.status == "UNIMPLEMENTED", end


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.channelz.v1.Channelz/GetTopChannels",
        "/grpc.admin.v1.Admin/Any",
    ],
)
async def test_nothing_else_is_on_the_public_port(
    path: str, forge: Forge, door: GrpcConnection
) -> None:
    end = await call(door, path, bearer(forge.good()))
    assert end.status == "UNIMPLEMENTED", end


async def test_health_alone_needs_no_token(door: GrpcConnection) -> None:
    assert (await call(door, UNGUARDED)).status == "OK"


@pytest.mark.parametrize("bad_name", ["foreign secret", "expired a moment ago", "other audience"])
async def test_a_bad_renewal_ends_the_session(
    bad_name: str, rows: list[BadToken], forge: Forge, channel: grpc.aio.Channel
) -> None:
    bad = next(row for row in rows if row.name == bad_name)
    token = bad.metadata[0][1].removeprefix("Bearer ")
    async with RawSession(channel, forge.good()) as session:
        await session.hello("renewing")
        await session.send(f'renew_token {{ token: "{token}" }}')
        end = await session.ended()
    assert (end.status, end.reason) == ("UNAUTHENTICATED", bad.reason)


async def test_a_renewal_as_somebody_else_ends_the_session(
    forge: Forge, channel: grpc.aio.Channel
) -> None:
    other_user = forge.sign(forge.claims(sub="alice"))
    other_tenant = forge.sign(forge.claims(tenant="elsewhere"))
    for token in (other_user, other_tenant):
        async with RawSession(channel, forge.good()) as session:
            await session.hello("renewing")
            await session.send(f'renew_token {{ token: "{token}" }}')
            end = await session.ended()
        assert (end.status, end.reason) == ("UNAUTHENTICATED", "TOKEN_MISMATCH")


async def test_a_good_renewal_goes_on(forge: Forge, channel: grpc.aio.Channel) -> None:
    async with RawSession(channel, forge.good()) as session:
        await session.hello("renewing")
        again = forge.sign(forge.claims(jti="second"))
        await session.send(f'renew_token {{ token: "{again}" }}', "ping { nonce: 7 }")
        await session.until(lambda frame: any(pong.nonce == 7 for pong in frame.pong))
