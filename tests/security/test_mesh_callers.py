"""Identities × mesh RPCs, on running servers: each method is for the callers that it names.

The identities are the mesh's own certificates; beside them, somebody with a certificate of another
authority, somebody with none, and somebody who only claims to be a service.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chatmesh.cli.bench.h2 import GrpcConnection, connect
from chatmesh.embedded import certificates
from chatmesh.embedded.running import RunningMesh
from tests.contract.descriptors import mesh_methods, public_methods
from tests.raw import call
from tests.security.methods import callers_by_method

pytestmark = pytest.mark.mesh
SERVED_BY = {
    "ChatNodeService": "chat_svc", "SequencerService": "sequencer_svc",
    "PresenceService": "presence_svc", "SyncService": "sync_svc", "PushService": "push_svc",
}  # fmt: skip
IDENTITIES = (*sorted(set(SERVED_BY.values())), certificates.CLI)
CALLERS = callers_by_method()
REFUSED = ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")


def address_of(mesh: RunningMesh, path: str) -> str:
    service = path.split("/")[1].rpartition(".")[2]
    return mesh.addresses_of(SERVED_BY[service])[0]


@asynccontextmanager
async def entered(address: str, tls: ssl.SSLContext | None) -> AsyncIterator[GrpcConnection | None]:
    """A connection; None where the handshake is refused already."""
    try:
        connection = await connect(address, tls)
    except (ssl.SSLError, ConnectionError):
        yield None
        return
    yield connection
    connection.close()


def identified(mesh: RunningMesh, folder: Path, identity: str) -> ssl.SSLContext:
    """Trusts the mesh, shows an identity out of a folder."""
    files = certificates.files_of(folder, identity)
    context = trusting(mesh)
    context.load_cert_chain(files.certificate, files.key)
    return context


def trusting(mesh: RunningMesh) -> ssl.SSLContext:
    """Trusts the mesh, shows nothing."""
    ca = certificates.files_of(mesh.folder.certificates, certificates.CLI).ca
    return ssl.create_default_context(cafile=str(ca))


async def status_of(connection: GrpcConnection | None, path: str) -> str:
    """What a call gets, where a refused handshake counts as UNAVAILABLE."""
    return "UNAVAILABLE" if connection is None else (await call(connection, path)).status


@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("path", CALLERS)
async def test_method_is_for_its_callers_alone(
    path: str, identity: str, running_mesh: RunningMesh
) -> None:
    folder = running_mesh.folder.certificates
    # streams that are let in get no request: they shall end, and change nothing
    is_silent = mesh_methods()[path].client_streaming and identity in CALLERS[path]
    requests = [] if is_silent else [b""]
    tls = identified(running_mesh, folder, identity)
    async with entered(address_of(running_mesh, path), tls) as connection:
        assert connection is not None
        end = await call(connection, path, (), requests)
    if identity in CALLERS[path]:
        assert end.status not in ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED"), end
    else:
        assert (end.status, end.reason) == REFUSED


@pytest.mark.parametrize("path", CALLERS)
async def test_a_claim_in_metadata_is_no_identity(path: str, running_mesh: RunningMesh) -> None:
    """What names the caller without TLS must name nobody where there is TLS."""
    stranger = next(name for name in IDENTITIES if name not in CALLERS[path])
    folder = running_mesh.folder.certificates
    tls = identified(running_mesh, folder, stranger)
    async with entered(address_of(running_mesh, path), tls) as connection:
        assert connection is not None
        for allowed in CALLERS[path]:
            end = await call(connection, path, (("chatmesh-caller", allowed),))
            assert (end.status, end.reason) == REFUSED


@pytest.mark.parametrize("path", CALLERS)
async def test_certificate_of_another_authority_gets_nowhere(
    path: str, running_mesh: RunningMesh, tmp_path: Path
) -> None:
    allowed = min(CALLERS[path])
    certificates.issue(tmp_path, [allowed])  # the same names, signed by somebody else
    tls = identified(running_mesh, tmp_path, allowed)
    async with entered(address_of(running_mesh, path), tls) as connection:
        assert await status_of(connection, path) == "UNAVAILABLE"


@pytest.mark.parametrize("path", CALLERS)
async def test_no_certificate_gets_nowhere(path: str, running_mesh: RunningMesh) -> None:
    for tls in (trusting(running_mesh), None):
        async with entered(address_of(running_mesh, path), tls) as connection:
            assert await status_of(connection, path) == "UNAVAILABLE"


@pytest.mark.parametrize("identity", IDENTITIES)
async def test_public_methods_are_not_on_the_mesh_port(
    identity: str, running_mesh: RunningMesh
) -> None:
    address = running_mesh.addresses_of("chat_svc")[0]
    tls = identified(running_mesh, running_mesh.folder.certificates, identity)
    async with entered(address, tls) as connection:
        assert connection is not None
        for path in public_methods():
            end = await call(connection, path)
            assert end.status in ("UNIMPLEMENTED", "PERMISSION_DENIED"), (path, end)
