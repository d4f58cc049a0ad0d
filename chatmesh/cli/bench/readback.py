"""What the running servers themselves say of durability and security, and how much was written.

Role: no figure is printed without the settings it was reached with, and those are asked of the
servers, not taken from our own options: SQL and CONFIG for the stores; for the servers, calls that
must be refused, and the environment their process was started with.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg
import redis
from psycopg.rows import dict_row

from chatmesh.cli.bench.grpc_stream import Ended
from chatmesh.cli.bench.h2 import connect
from chatmesh.embedded.running import RunningMesh

_POSTGRES_DURABLE: Final = (
    "fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names",
    "wal_sync_method", "data_checksums", "commit_delay", "server_version",
)  # fmt: skip
_REDIS_DURABLE: Final = ("appendonly", "appendfsync", "maxmemory-policy")
_PROBE_SECONDS: Final = 5
_UNAUTHENTICATED: Final = 16
_PERMISSION_DENIED: Final = 7
_ANY_PUBLIC: Final = "/chatmesh.v1.ChatService/ListEntries"
_NOT_FOR_CLI: Final = "/chatmesh.mesh.v1.PresenceService/SetState"
_TRACE_RATIO: Final = "CHATMESH_TRACE_SAMPLE_RATIO"


@dataclass(frozen=True, slots=True)
class Written:
    """How much PostgreSQL holds and has written, at one moment."""

    database_bytes: int
    wal_bytes: int
    wal_fsyncs: int | None


def written(owner_url: str) -> Written:
    """Database size, WAL position and number of WAL fsyncs now. Blocking. Raises psycopg.Error."""
    with psycopg.connect(owner_url, autocommit=True) as connection:
        size, position = connection.execute(
            "SELECT pg_database_size(current_database()),"
            " pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
        ).fetchone() or (0, 0)
        return Written(int(size), int(position), _wal_fsyncs(connection))


def _wal_fsyncs(connection: psycopg.Connection[Any]) -> int | None:
    """From pg_stat_io (PostgreSQL 18) or pg_stat_wal (before)."""
    query: LiteralString = "SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal'"
    if connection.info.server_version < 180000:
        query = "SELECT wal_sync FROM pg_stat_wal"
    row = connection.execute(query).fetchone()
    return int(row[0]) if row and row[0] is not None else None


def durable_settings(mesh: RunningMesh) -> dict[str, Any]:
    """Durability as PostgreSQL and Redis answer it. Blocking. Raises psycopg.Error, RedisError."""
    with psycopg.connect(mesh.owner_url(), autocommit=True, row_factory=dict_row) as connection:
        postgres: dict[str, Any] = {
            row["name"]: row["setting"]
            for row in connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)",
                [list(_POSTGRES_DURABLE)],
            )
        }
        overrides = connection.execute(
            "SELECT coalesce(r.rolname, '*') AS role, unnest(s.setconfig) AS setting"
            " FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole"
        ).fetchall()
        # a role could be told to commit without waiting: then the server's own value says little
        postgres["role_overrides"] = [
            f"{row['role']}: {row['setting']}"
            for row in overrides
            if row["setting"].partition("=")[0] in _POSTGRES_DURABLE
        ]
    return {"postgres": postgres, "redis": _redis_settings(mesh.redis_url())}


def _redis_settings(url: str) -> dict[str, Any]:
    client = redis.Redis.from_url(url, decode_responses=True, socket_timeout=_PROBE_SECONDS)
    try:
        found: dict[str, Any] = {
            name: value for name in _REDIS_DURABLE for value in client.config_get(name).values()
        }
        server = client.info("server")
        found["version"] = str(server.get("valkey_version") or server.get("redis_version"))
    finally:
        client.close()
    return found


async def security_settings(
    mesh: RunningMesh, public_tls: ssl.SSLContext | None = None
) -> dict[str, Any]:
    """Security as the listeners show it, and the sampling that was on. Raises OSError."""
    answer = await _public_without_token(mesh.public[0], public_tls)
    presence = mesh.addresses_of("presence_svc")[0]
    files = mesh.cli_certificates()
    ours = ssl.create_default_context(cafile=str(files.ca))
    ours.load_cert_chain(files.certificate, files.key)
    version, denied = await _mesh_with(presence, ours)
    _, nobody = await _mesh_with(presence, ssl.create_default_context(cafile=str(files.ca)))
    return {
        "public_without_token_refused": answer.code == _UNAUTHENTICATED,
        "mesh_tls": version,
        "mesh_without_certificate_refused": nobody is None,
        "mesh_wrong_caller_refused": denied is not None and denied.code == _PERMISSION_DENIED,
        "trace_sample_ratio": _trace_sample_ratio(mesh),
    }


async def _public_without_token(target: str, tls: ssl.SSLContext | None) -> Ended:
    connection = await connect(target, tls)
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, ended = await connection.call(_ANY_PUBLIC, (), [b""])
            return ended
    finally:
        connection.close()


async def _mesh_with(target: str, tls: ssl.SSLContext) -> tuple[str | None, Ended | None]:
    """TLS version, and the answer to a call that the command line may not make.

    No version: the listener speaks no TLS. No answer: it let nobody in with this context.
    """
    tls.set_alpn_protocols(["h2"])
    version = await asyncio.to_thread(_tls_version, target, tls)
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            connection = await connect(target, tls)
            try:
                _, ended = await connection.call(_NOT_FOR_CLI, (), [b""])
            finally:
                connection.close()
    except (OSError, TimeoutError):
        return version, None
    # TLS 1.3 tells a client that its certificate is missing only after the handshake
    refused = connection.closed_because is not None and ended.code not in (
        _PERMISSION_DENIED, _UNAUTHENTICATED,
    )  # fmt: skip
    return version, None if refused else ended


def _tls_version(target: str, tls: ssl.SSLContext) -> str | None:
    host, _, port = target.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), _PROBE_SECONDS) as plain,
            tls.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            return wrapped.version()
    except (ssl.SSLError, OSError):
        return None


def _trace_sample_ratio(mesh: RunningMesh) -> float | None:
    """The ratio that the chat nodes were started with; None where the kernel does not tell."""
    for process in mesh.processes:
        if process.service == "chat_svc":
            return _environment_ratio(process.pid)
    return None


def _environment_ratio(pid: int) -> float | None:
    from chatmesh.runtime.settings import ServerSettings

    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    for pair in pairs:
        name, _, value = pair.decode(errors="replace").partition("=")
        if name == _TRACE_RATIO:
            return float(value)
    return float(ServerSettings.model_fields["trace_sample_ratio"].default)
