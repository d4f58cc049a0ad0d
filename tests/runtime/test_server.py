"""Listeners: addresses, limits, health, reflection, readiness, identity and callers."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]
    reflection_pb2,
    reflection_pb2_grpc,
)

from chatmesh.embedded import certificates
from chatmesh.runtime import callers, faults, listener, peers
from chatmesh.runtime.addresses import resolve_target
from chatmesh.runtime.callers import CALLER_METADATA
from chatmesh.runtime.errors import AddressTaken, StartupError
from chatmesh.runtime.listener import MESH_LIMITS, PUBLIC_LIMITS, ServerTls
from chatmesh.runtime.peers import Peer
from chatmesh.runtime.readiness import Readiness
from chatmesh.runtime.server import Face, GrpcServer, mesh_server
from chatmesh.runtime.settings import ServerSettings
from tests.runtime.conftest import Serving
from tests.runtime.echo import SERVICE, EchoServicer, EchoStub, Message, add_echo

ALLOWED = {
    f"/{SERVICE}/{kind}": frozenset(("sync_svc",))
    for kind in ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
}


async def test_a_taken_address_is_told(serving: Serving) -> None:
    _, address = await serving.server()
    with pytest.raises(AddressTaken, match="in use by another process"):
        await serving.server(address=address)


async def test_an_address_taken_by_another_kind_of_server(serving: Serving) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(AddressTaken):
        await serving.server(address=f"127.0.0.1:{taken.getsockname()[1]}")


async def test_an_address_of_another_machine_is_told(serving: Serving) -> None:
    with pytest.raises(StartupError, match="cannot listen on 192\\.0\\.2\\.1:1"):
        await serving.server(address="192.0.2.1:1")


async def test_a_unix_socket_of_a_living_server_is_not_stolen(
    serving: Serving, tmp_path: Path
) -> None:
    address = f"unix:{tmp_path}/s"
    first, bound = await serving.server(address=address)
    assert bound == address
    with pytest.raises(AddressTaken):
        await serving.server(address=address)
    stub = EchoStub(serving.channel(address))
    assert (await stub.UnaryUnary(Message(text="x"), timeout=10)).text == "x"
    await first.stop(0)
    await serving.server(address=address)  # the file that the first one left is no obstacle


def test_the_limits_of_the_design() -> None:
    public, mesh = dict(PUBLIC_LIMITS.options()), dict(MESH_LIMITS.options())
    assert public["grpc.so_reuseport"] == mesh["grpc.so_reuseport"] == 0
    assert public["grpc.keepalive_time_ms"] + public["grpc.keepalive_timeout_ms"] <= 40_000
    assert mesh["grpc.keepalive_time_ms"] == 10_000
    assert mesh["grpc.keepalive_timeout_ms"] == 5_000
    assert mesh["grpc.max_connection_age_grace_ms"] == 30_000
    for either in (public, mesh):
        assert either["grpc.http2.max_ping_strikes"] == 2
        assert either["grpc.server_handshake_timeout_ms"] == 10_000
        assert either["grpc.max_metadata_size"] == 8 << 10
        assert either["grpc.absolute_max_metadata_size"] == 16 << 10
    assert public["grpc.http2.min_ping_interval_without_data_ms"] == 10_000
    assert mesh["grpc.http2.min_ping_interval_without_data_ms"] == 5_000
    assert 30 * 60_000 <= public["grpc.max_connection_age_ms"] <= 60 * 60_000
    assert public["grpc.max_connection_age_grace_ms"] == 60_000
    assert mesh["grpc.max_connection_age_ms"] == 600_000
    assert public["grpc.max_connection_idle_ms"] == 300_000
    assert "grpc.max_connection_idle_ms" not in mesh
    assert (public["grpc.max_concurrent_streams"], mesh["grpc.max_concurrent_streams"]) == (
        16,
        1000,
    )
    assert public["grpc.max_receive_message_length"] == 1 << 20
    assert mesh["grpc.max_receive_message_length"] == 8 << 20
    assert 0.9 * mesh["grpc.max_connection_age_ms"] > listener.MESH_STREAM_AGE_SECONDS * 1000


async def test_a_request_above_the_limit(serving: Serving) -> None:
    limits = dataclasses.replace(MESH_LIMITS, max_receive_bytes=1000)
    stub = await serving.echo(limits=limits)
    assert await stub.UnaryUnary(Message(text="x" * 900), timeout=10)
    for kind, error in await stub.all_kinds(Message(text="x" * 1100), timeout=10):
        assert isinstance(error, grpc.aio.AioRpcError), kind
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, kind


async def test_compressed_requests_are_refused(serving: Serving) -> None:
    stub = await serving.echo()
    bomb = Message(text="x" * 500_000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.UnaryUnary(bomb, timeout=10, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_too_many_calls_at_once(serving: Serving) -> None:
    limits = dataclasses.replace(MESH_LIMITS, max_concurrent_rpcs=1)
    stub = await serving.echo(limits=limits)
    call = stub.StreamStream()
    await call.wait_for_connection()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.UnaryUnary(Message(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    call.cancel()


async def test_too_much_metadata(serving: Serving) -> None:
    stub = await serving.echo()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.UnaryUnary(Message(), timeout=10, metadata=[("x", "y" * 20_000)])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_health_follows_readiness(serving: Serving) -> None:
    readiness = Readiness()
    store = readiness.require("postgres")
    _, address = await serving.server(readiness=readiness)
    health = health_pb2_grpc.HealthStub(serving.channel(address))
    states = health_pb2.HealthCheckResponse

    async with asyncio.timeout(10):
        for service in ("", SERVICE):
            request = health_pb2.HealthCheckRequest(service=service)
            assert (await health.Check(request)).status == states.NOT_SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == states.NOT_SERVING
        store.up()
        assert (await watch.read()).status == states.SERVING
        store.down("gone")
        assert (await watch.read()).status == states.NOT_SERVING
        store.up()
        assert (await watch.read()).status == states.SERVING
        readiness.stop()
        assert (await watch.read()).status == states.NOT_SERVING
        watch.cancel()


async def test_calls_while_not_ready_name_what_is_missing(serving: Serving) -> None:
    readiness = Readiness()
    store, peer = readiness.require("postgres"), readiness.require("sequencer")
    readiness.require("metrics of someone", critical=False)
    settings = ServerSettings(mesh_listen="127.0.0.1:0")
    server = mesh_server(settings, readiness, callers=ALLOWED, ungated=[f"/{SERVICE}/StreamUnary"])
    server.add(add_echo, EchoServicer())
    address = await server.start()
    metadata = [(CALLER_METADATA, "sync_svc")]
    stub = EchoStub(serving.channel(address))
    for kind, result in await stub.all_kinds(Message(text="x"), timeout=10, metadata=metadata):
        if kind == "StreamUnary":
            assert result.text == "x"
            continue
        fault = faults.from_rpc_error(result)
        assert (fault.code, fault.reason) == (grpc.StatusCode.UNAVAILABLE, faults.NOT_SERVING)
        assert fault.metadata["missing"] == "postgres, sequencer"
    store.up()
    peer.up()
    assert await stub.UnaryUnary(Message(), timeout=10, metadata=metadata)
    readiness.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.UnaryUnary(Message(), timeout=10, metadata=metadata)
    assert faults.from_rpc_error(caught.value).reason == faults.SHUTTING_DOWN
    await server.stop(0)


@pytest.mark.parametrize("on", [True, False])
async def test_reflection_only_by_setting(serving: Serving, on: bool) -> None:
    _, address = await serving.server(reflection=on)
    stub = reflection_pb2_grpc.ServerReflectionStub(serving.channel(address))
    call = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10
    )
    if on:
        answer = await call.read()
        names = {service.name for service in answer.list_services_response.service}
        assert names >= {SERVICE, "grpc.health.v1.Health"}
        call.cancel()
    else:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# --- callers ---------------------------------------------------------------------------------


def test_allowed_callers_come_from_the_contract() -> None:
    from chatmesh.mesh.v1 import callers_pb2, sequencer_pb2, sync_pb2

    services = [
        sequencer_pb2.DESCRIPTOR.services_by_name["SequencerService"],
        sync_pb2.DESCRIPTOR.services_by_name["SyncService"],
    ]
    allowed = callers.allowed_callers(services, callers_pb2.callers)
    assert allowed["/chatmesh.mesh.v1.SyncService/Enqueue"] == {"chat_svc"}
    assert all(names for names in allowed.values())


async def test_without_tls_the_caller_is_what_metadata_says(serving: Serving) -> None:
    settings = ServerSettings(mesh_listen="127.0.0.1:0")
    server = mesh_server(settings, Readiness(), callers=ALLOWED)
    seen: list[str] = []

    class Looking(EchoServicer):
        async def UnaryUnary(self, request: Any, context: Any) -> Any:
            seen.append(callers.current_caller())
            return Message()

    server.add(add_echo, Looking())
    address = await server.start()
    for caller, reason in (("sync_svc", None), ("push_svc", faults.CALLER_NOT_ALLOWED)):
        peer = Peer(address, settings, caller=caller)
        stub = EchoStub(peer.channel)
        for kind, result in await stub.all_kinds(Message(text="x"), timeout=10):
            if reason is None:
                assert not isinstance(result, Exception), kind
            else:
                assert faults.from_rpc_error(result).reason == reason, kind
        await peer.close()
    nobody = EchoStub(serving.channel(address))
    for kind, result in await nobody.all_kinds(Message(), timeout=10):
        assert faults.from_rpc_error(result).reason == faults.CALLER_UNKNOWN, kind
    assert seen == ["sync_svc"]
    await server.stop(0)


async def test_a_method_without_option_is_closed(serving: Serving) -> None:
    settings = ServerSettings(mesh_listen="127.0.0.1:0")
    server = mesh_server(settings, Readiness(), callers={})
    server.add(add_echo, EchoServicer())
    address = await server.start()
    peer = Peer(address, settings, caller="sync_svc")
    for kind, result in await EchoStub(peer.channel).all_kinds(Message(), timeout=10):
        assert faults.from_rpc_error(result).reason == faults.CALLER_NOT_ALLOWED, kind
    await peer.close()
    await server.stop(0)


def tls_settings(folder: Path, service: str, listen: str = "127.0.0.1:0") -> ServerSettings:
    files = certificates.files_of(folder, service)
    return ServerSettings(
        mesh_listen=listen,
        mesh_tls_ca=files.ca,
        mesh_tls_cert=files.certificate,
        mesh_tls_key=files.key,
    )


async def test_mutual_tls_names_the_caller(serving: Serving, tmp_path: Path) -> None:
    certificates.issue(tmp_path, ["chat_svc", "sync_svc", "push_svc"])
    server = mesh_server(tls_settings(tmp_path, "chat_svc"), Readiness(), callers=ALLOWED)
    server.add(add_echo, EchoServicer())
    address = await server.start()
    for caller, allowed in (("sync_svc", True), ("push_svc", False)):
        # metadata claims nothing here: the certificate decides
        peer = Peer(address, tls_settings(tmp_path, caller), caller="sync_svc")
        for kind, result in await EchoStub(peer.channel).all_kinds(Message(text="x"), timeout=10):
            assert isinstance(result, Exception) is not allowed, (caller, kind, result)
            if not allowed:
                assert faults.from_rpc_error(result).reason == faults.CALLER_NOT_ALLOWED
        await peer.close()
    await server.stop(0)


async def test_certificates_of_another_authority_and_none_are_refused(
    serving: Serving, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        certificates.issue(folder, ["chat_svc", "sync_svc"])
    server = mesh_server(tls_settings(ours, "chat_svc"), Readiness(), callers=ALLOWED)
    server.add(add_echo, EchoServicer())
    address = await server.start()
    foreign = certificates.files_of(theirs, "sync_svc")
    ca = certificates.files_of(ours, "sync_svc").ca.read_bytes()
    attempts = {
        "plain text": grpc.aio.insecure_channel(address),
        "no certificate": grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca)),
        "foreign": grpc.aio.secure_channel(
            address,
            grpc.ssl_channel_credentials(
                ca, foreign.key.read_bytes(), foreign.certificate.read_bytes()
            ),
        ),
    }
    for name, channel in attempts.items():
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EchoStub(channel).UnaryUnary(Message(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, name
        await channel.close()
    await server.stop(0)


async def test_renewed_certificates_are_used_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "CERTIFICATE_CHECK_SECONDS", 0)
    certificates.issue(tmp_path, ["chat_svc", "sync_svc"])
    server = mesh_server(tls_settings(tmp_path, "chat_svc"), Readiness(), callers=ALLOWED)
    server.add(add_echo, EchoServicer())
    address = await server.start()
    for _ in range(2):  # the second round has a new authority, server and client certificate
        peer = Peer(address, tls_settings(tmp_path, "sync_svc"), caller="sync_svc")
        stub = EchoStub(peer.channel)
        assert (await stub.UnaryUnary(Message(text="x"), timeout=10)).text == "x"
        await peer.close()
        certificates.issue(tmp_path, ["chat_svc", "sync_svc"])
    await server.stop(0)


async def test_a_peer_uses_renewed_certificates_and_keeps_its_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (listener, peers):
        monkeypatch.setattr(module, "CERTIFICATE_CHECK_SECONDS", 0)
    monkeypatch.setattr(peers, "RETIRE_SECONDS", 0)
    certificates.issue(tmp_path, ["chat_svc", "sync_svc"])
    server = mesh_server(tls_settings(tmp_path, "chat_svc"), Readiness(), callers=ALLOWED)
    server.add(add_echo, EchoServicer())
    address = await server.start()
    peer = Peer(address, tls_settings(tmp_path, "sync_svc"), caller="sync_svc")
    stub = EchoStub(peer.channel)
    stream = stub.StreamStream()
    await stream.write(Message(text="before"))
    assert (await stream.read()).text == "before"
    certificates.issue(tmp_path, ["chat_svc", "sync_svc"])  # another authority: all is new
    assert (await stub.UnaryUnary(Message(text="x"), timeout=10)).text == "x"
    async with asyncio.timeout(10):
        assert await stream.code() is grpc.StatusCode.CANCELLED, "the old channel is closed"
    (tmp_path / "sync_svc.pem").unlink()
    assert (await stub.UnaryUnary(Message(text="y"), timeout=10)).text == "y"
    await peer.close()
    await server.stop(0)


async def test_a_missing_certificate_is_told(tmp_path: Path) -> None:
    tls = ServerTls(tmp_path / "none.pem", tmp_path / "none.key")
    server = GrpcServer(face=Face.PUBLIC, address="127.0.0.1:0", tls=tls)
    with pytest.raises(StartupError, match="cannot read"):
        await server.start()
    await server.stop(0)


# --- peers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "resolved", "authority"),
    [
        ("dns:///presence:7011", "dns:///presence:7011", None),
        ("127.0.0.1:1", "127.0.0.1:1", None),
        ("127.0.0.1:1, 127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2", "127.0.0.1:1"),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2", "[::1]:1"),
    ],
)
def test_targets(target: str, resolved: str, authority: str | None) -> None:
    assert resolve_target(target) == (resolved, authority)


@pytest.mark.parametrize("target", ["a:1,b:2", "127.0.0.1:1,[::1]:2", "127.0.0.1,127.0.0.2"])
def test_bad_target_lists(target: str) -> None:
    with pytest.raises(ValueError, match="target list"):
        resolve_target(target)


async def test_a_list_of_targets_is_spread_with_tls(tmp_path: Path) -> None:
    certificates.issue(tmp_path, ["chat_svc", "sync_svc"])
    names: list[str] = []

    class Named(EchoServicer):
        def __init__(self, name: str) -> None:
            self.name = name

        async def UnaryUnary(self, request: Any, context: Any) -> Any:
            names.append(self.name)
            return Message()

    servers, addresses = [], []
    for name in "ab":
        server = mesh_server(tls_settings(tmp_path, "chat_svc"), Readiness(), callers=ALLOWED)
        server.add(add_echo, Named(name))
        addresses.append(await server.start())
        servers.append(server)
    peer = Peer(",".join(addresses), tls_settings(tmp_path, "sync_svc"), caller="sync_svc")
    stub = EchoStub(peer.channel)
    async with asyncio.timeout(10):
        while set(names) != {"a", "b"}:
            await stub.UnaryUnary(Message(), timeout=10)
    await peer.close()
    for server in servers:
        await server.stop(0)
