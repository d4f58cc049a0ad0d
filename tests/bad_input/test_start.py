"""The rows of kind `start` of tests/bad_input.toml: what keeps a mesh or a server from starting.

`chatmesh up` and the servers run as child processes, as a person would run them. Servers log what
they miss; a test waits for that line, then asks GET /readyz.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import unittest.mock
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
import redis
from psycopg import sql

from chatmesh.embedded.running import RunningMesh
from chatmesh.runtime import migrate
from chatmesh.testing.mesh import start_mesh
from tests.bad_input.table import Row, rows

pytestmark = pytest.mark.mesh
NOWHERE = "127.0.0.1:1"
"""Port 1 needs root to be listened on, and nobody does."""
FIXED_PUBLIC_PORT = 7030


def up(*arguments: str, **environment: str) -> tuple[str, str]:
    """`chatmesh up`: its status and what it said on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "chatmesh.cli.main", "up", *arguments],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.stdout == "", "a mesh that does not start says nothing on stdout"
    return f"exit {done.returncode}", done.stderr


def server(module: str, missing: str, **settings: str) -> tuple[str, str]:
    """A server with these settings, until it logs what it misses: then what /readyz says."""
    environment = {f"CHATMESH_{name}": value for name, value in settings.items()}
    metrics = _free_address()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATMESH_")}
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stderr=subprocess.PIPE, text=True,
        env={**kept, "CHATMESH_MESH_LISTEN": "127.0.0.1:0", "CHATMESH_METRICS_LISTEN": metrics,
             **environment},
    )  # fmt: skip
    assert process.stderr is not None
    with process:
        try:
            seen = []
            for line in process.stderr:
                seen.append(line)
                if "component down" in line and missing in line:
                    return _readiness(metrics)
            raise AssertionError(f"{module} ended without missing {missing}:\n{''.join(seen)}")
        finally:
            process.kill()


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _readiness(metrics: str) -> tuple[str, str]:
    try:
        with urllib.request.urlopen(f"http://{metrics}/readyz", timeout=10) as answer:
            return "ready", answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            body = json.loads(refused.read())
        return "not ready", json.dumps(body["missing"])


@contextmanager
def stores(**postgres_settings: str) -> Iterator[RunningMesh]:
    """A real PostgreSQL and Valkey, no servers."""
    with start_mesh(
        servers=False, postgres_url=None, redis_url=None, postgres_settings=postgres_settings
    ) as started:
        yield started.mesh.running


def folder_in_use() -> tuple[str, str]:
    with stores() as running:
        return up("--data", str(running.folder.path), "--ports", "auto")


def ports_taken() -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder, socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", FIXED_PUBLIC_PORT))
            taken.listen()
        except OSError:
            pass  # somebody else has it: as good
        return up("--data", folder)


def folder_impossible() -> tuple[str, str]:
    return up("--data", "/dev/null/mesh", "--ports", "auto")


def wrong_settings() -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        return up(
            "--data", folder, "--ports", "auto", CHATMESH_LOG_LEVEL="loud", CHATMESH_REDIS_ULR="x"
        )  # fmt: skip


def postgres_unreachable() -> tuple[str, str]:
    url = f"postgresql://chatmesh:secret@{NOWHERE}/chatmesh"
    return server("sequencer_svc", "postgres", POSTGRES_URL=url)


def up_without_postgres() -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"postgresql://chatmesh:secret@{NOWHERE}/chatmesh"
        return up("--data", folder, "--ports", "auto", CHATMESH_POSTGRES_URL=url)


def redis_unreachable() -> tuple[str, str]:
    return server("presence_svc", "redis", REDIS_URL=f"redis://{NOWHERE}")


def up_without_redis() -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        return up(
            "--data", folder, "--ports", "auto", CHATMESH_REDIS_URL=f"redis://:secret@{NOWHERE}"
        )  # fmt: skip


@contextmanager
def careless_postgres() -> Iterator[RunningMesh]:
    """A real PostgreSQL with fsync off, which `up` itself runs only when it is told so."""
    with (
        unittest.mock.patch.dict(os.environ, {"CHATMESH_POSTGRES_DURABLE": "false"}),
        stores(fsync="off") as found,
    ):
        with psycopg.connect(found.owner_url()) as connection:
            row = connection.execute("SHOW fsync").fetchone()
        assert row == ("off",), "the test would prove nothing"
        del os.environ["CHATMESH_POSTGRES_DURABLE"]
        yield found


@contextmanager
def forgetful_redis() -> Iterator[RunningMesh]:
    """A real Valkey that evicts when it is full."""
    with stores() as found:
        client = redis.Redis.from_url(found.redis_url())
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.close()
        yield found


def server_on_careless_postgres() -> tuple[str, str]:
    with careless_postgres() as found:
        return server("sequencer_svc", "fsync", POSTGRES_URL=found.owner_url())


def server_on_forgetful_redis() -> tuple[str, str]:
    with forgetful_redis() as found:
        return server("presence_svc", "maxmemory-policy", REDIS_URL=found.redis_url())


def up_on_careless_postgres() -> tuple[str, str]:
    with careless_postgres() as found, tempfile.TemporaryDirectory() as folder:
        url = found.owner_url()
        return up("--data", folder, "--ports", "auto", CHATMESH_POSTGRES_URL=url)


def up_on_forgetful_redis() -> tuple[str, str]:
    with forgetful_redis() as found, tempfile.TemporaryDirectory() as folder:
        url = found.redis_url()
        return up("--data", folder, "--ports", "auto", CHATMESH_REDIS_URL=url)


def _each_on_schema(url: str, missing: str) -> tuple[str, str]:
    """Every service that has tables, with a schema that does not fit it: none serves."""
    nowhere = dict.fromkeys(
        ("PRESENCE_TARGET", "PUSH_TARGET", "SEQUENCER_TARGET", "SYNC_TARGET"), NOWHERE
    )
    chat = {
        **nowhere, "PUBLIC_LISTEN": "127.0.0.1:0", "HINT_KEY": "0123456789abcdef",
        "EMBEDDED": "true", "DEV_SECRET": "x" * 32,
    }  # fmt: skip
    settings: dict[str, dict[str, str]] = {"chat_svc": chat, "push_svc": {}, "sequencer_svc": {}}
    found = [server(module, missing, POSTGRES_URL=url, **more) for module, more in settings.items()]
    assert {status for status, _ in found} == {"not ready"}, found
    return "not ready", "\n".join(text for _, text in found)


def schema_too_old() -> tuple[str, str]:
    with stores() as found:
        status, text = _each_on_schema(found.owner_url(), "chatmesh migrate")
    assert text.count("run `chatmesh migrate`") == 3, text
    return status, text


def schema_too_new() -> tuple[str, str]:
    with stores() as found:
        url = found.owner_url()
        for package in ("chat_svc", "push_svc", "sequencer_svc"):
            migrate.apply(url, package, "pre")
        with psycopg.connect(url, autocommit=True) as connection:
            for schema in ("chat", "push", "sequencer"):  # as a later release's `post` leaves it
                table = sql.Identifier(schema, "schema_version")
                connection.execute(
                    sql.SQL("update {} set version = 9999, needs_code = 9999").format(table)
                )
        status, text = _each_on_schema(url, "newer release")
    assert text.count("start a newer release") == 3, text
    return status, text


STARTS: dict[str, Callable[[], tuple[str, str]]] = {
    "data folder in use by another mesh": folder_in_use,
    "ports taken": ports_taken,
    "data folder that cannot be made": folder_impossible,
    "settings of servers that are wrong": wrong_settings,
    "PostgreSQL unreachable": postgres_unreachable,
    "PostgreSQL unreachable, the whole mesh": up_without_postgres,
    "Redis unreachable": redis_unreachable,
    "Redis unreachable, the whole mesh": up_without_redis,
    "PostgreSQL with fsync off, a server alone": server_on_careless_postgres,
    "PostgreSQL with fsync off, the whole mesh": up_on_careless_postgres,
    "Redis that may evict, a server alone": server_on_forgetful_redis,
    "Redis that may evict, the whole mesh": up_on_forgetful_redis,
    "schema older than the server": schema_too_old,
    "schema that needs newer servers": schema_too_new,
}


@pytest.mark.parametrize("row", rows("start"), ids=lambda row: row.input)
def test_start(row: Row) -> None:
    status, text = STARTS[row.input]()
    assert status == row.status, text
    assert row.reason in text
    assert "Traceback" not in text
    assert "secret" not in text, "no password in what a person reads"


def test_every_start_is_in_the_table() -> None:
    assert STARTS.keys() == {row.input for row in rows("start")}
