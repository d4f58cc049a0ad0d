"""Identities × mesh RPCs, on running servers: each method is for the callers that it names.

The identities are the mesh's own certificates; beside them, somebody with a certificate of another
authority, somebody with none, and somebody who only claims to be a service.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from chatmesh.embedded import certificates
from chatmesh.embedded.running import RunningMesh
from tests.contract.descriptors import public_methods
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
async def channel_as(
    mesh: RunningMesh, path: str, folder: Path, identity: str
) -> AsyncIterator[grpc.aio.Channel]:
    """To the server of a method, with an identity's files; the mesh's CA is trusted always."""
    ca = certificates.files_of(mesh.folder.certificates, identity).ca
    files = certificates.files_of(folder, identity)
    credentials = grpc.ssl_channel_credentials(
        ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    async with grpc.aio.secure_channel(address_of(mesh, path), credentials) as made:
        yield made


@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("path", CALLERS)
async def test_method_is_for_its_callers_alone(
    path: str, identity: str, running_mesh: RunningMesh
) -> None:
    folder = running_mesh.folder.certificates
    # streams that are let in get no request: they shall end, and change nothing
    requests = [b""] if identity not in CALLERS[path] else []
    async with channel_as(running_mesh, path, folder, identity) as channel:
        end = await call(channel, path, (), requests)
    if identity in CALLERS[path]:
        assert end.status not in ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED"), end
    else:
        assert (end.status, end.reason) == REFUSED


@pytest.mark.parametrize("path", CALLERS)
async def test_a_claim_in_metadata_is_no_identity(path: str, running_mesh: RunningMesh) -> None:
    """What names the caller without TLS must name nobody where there is TLS."""
    stranger = next(name for name in IDENTITIES if name not in CALLERS[path])
    folder = running_mesh.folder.certificates
    async with channel_as(running_mesh, path, folder, stranger) as channel:
        for allowed in CALLERS[path]:
            end = await call(channel, path, (("chatmesh-caller", allowed),))
            assert (end.status, end.reason) == REFUSED


@pytest.mark.parametrize("path", CALLERS)
async def test_certificate_of_another_authority_gets_nowhere(
    path: str, running_mesh: RunningMesh, tmp_path: Path
) -> None:
    allowed = min(CALLERS[path])
    certificates.issue(tmp_path, [allowed])  # the same names, signed by somebody else
    async with channel_as(running_mesh, path, tmp_path, allowed) as channel:
        assert (await call(channel, path)).status == "UNAVAILABLE"


@pytest.mark.parametrize("path", CALLERS)
async def test_no_certificate_gets_nowhere(path: str, running_mesh: RunningMesh) -> None:
    ca = certificates.files_of(running_mesh.folder.certificates, certificates.CLI).ca.read_bytes()
    address = address_of(running_mesh, path)
    tls = grpc.ssl_channel_credentials(ca)
    async with grpc.aio.secure_channel(address, tls) as channel:
        assert (await call(channel, path)).status == "UNAVAILABLE"
    async with grpc.aio.insecure_channel(address) as channel:
        assert (await call(channel, path)).status == "UNAVAILABLE"


@pytest.mark.parametrize("path", public_methods())
async def test_public_methods_are_not_on_the_mesh_port(
    path: str, running_mesh: RunningMesh
) -> None:
    node = "/chatmesh.mesh.v1.ChatNodeService/PushState"
    folder = running_mesh.folder.certificates
    for identity in IDENTITIES:
        async with channel_as(running_mesh, node, folder, identity) as channel:
            end = await call(channel, path)
            assert end.status in ("UNIMPLEMENTED", "PERMISSION_DENIED"), end
