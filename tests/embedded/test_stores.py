"""The embedded stores are the real ones, durable, private, and come back."""

import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from chatmesh.embedded import keys
from chatmesh.embedded.errors import NotRunning, UnknownPart
from chatmesh.embedded.postgres import SERVICE_ROLES, as_role
from chatmesh.embedded.running import find
from chatmesh.embedded.supervisor import Mesh, MeshOptions


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    data = tmp_path_factory.mktemp("stores") / "data"
    with Mesh(MeshOptions(data=data, ports="auto", servers=False)) as running:
        yield running


def shown(mesh: Mesh, name: str) -> str:
    with psycopg.connect(mesh.running.owner_url()) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", ""),
        ("server_encoding", "UTF8"),
        ("jit", "off"),
        ("TimeZone", "UTC"),
        ("password_encryption", "scram-sha-256"),
    ],
)
def test_postgres_settings(mesh: Mesh, setting: str, value: str) -> None:
    assert shown(mesh, setting) == value


def test_texts_sort_by_code_point_whatever_the_environment(mesh: Mesh) -> None:
    with psycopg.connect(mesh.running.owner_url()) as connection:
        rows = connection.execute(
            "SELECT w FROM unnest(array['b', 'A', 'a', 'ä', 'Z']) AS w ORDER BY w"
        ).fetchall()
    assert [word for (word,) in rows] == ["A", "Z", "a", "b", "ä"]


def test_statements_are_counted_for_measurements(mesh: Mesh) -> None:
    with psycopg.connect(mesh.running.owner_url()) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_statements").fetchone()
    assert row is not None
    assert row[0] > 0


@pytest.mark.parametrize("role", SERVICE_ROLES.values())
def test_a_service_role_logs_in_and_may_make_nothing(mesh: Mesh, role: str) -> None:
    password = keys.postgres_password(mesh.folder, role).read_text()
    url = as_role(mesh.running.owner_url(), role, password)
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT current_user").fetchone()
        assert row == (role,)
        for statement in (
            "CREATE TABLE public.t (x int)",
            "CREATE TEMP TABLE t (x int)",
            "CREATE SCHEMA s",
            "CREATE ROLE r",
            "CREATE DATABASE d",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_a_wrong_password_is_refused_even_on_the_socket(mesh: Mesh) -> None:
    url = as_role(mesh.running.owner_url(), "chatmesh", "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)


def test_valkey_never_evicts_and_keeps_an_append_only_file(mesh: Mesh) -> None:
    with redis.Redis.from_url(mesh.running.redis_url(), decode_responses=True) as client:
        configured = client.config_get("*")
    assert configured["maxmemory-policy"] == "noeviction"
    assert configured["appendonly"] == "yes"
    assert configured["appendfsync"] == "everysec"
    assert configured["save"] == ""
    assert configured["port"] == "0"


def test_valkey_asks_for_its_password(mesh: Mesh) -> None:
    url = mesh.running.redis_url()
    path = url.partition("@")[2]
    with redis.Redis.from_url(f"unix://{path}") as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_everything_is_private(mesh: Mesh) -> None:
    for path in (mesh.folder.path, mesh.folder.secrets, mesh.folder.certificates, mesh.folder.logs):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (*mesh.folder.secrets.iterdir(), *mesh.folder.certificates.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    text = mesh.folder.mesh_file.read_text()
    for secret in mesh.folder.secrets.glob("postgres-chatmesh*"):
        assert secret.read_text() not in text


def test_no_password_on_a_command_line(mesh: Mesh) -> None:
    passwords = [keys.postgres_password(mesh.folder, "chatmesh"), keys.valkey_password(mesh.folder)]
    for name in mesh.names():
        for pid in mesh.pids(name):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert not any(path.read_bytes() in arguments for path in passwords)


def test_postgres_comes_back_with_what_was_committed(mesh: Mesh) -> None:
    with psycopg.connect(mesh.running.owner_url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (x int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    before = mesh.kill("postgres")
    mesh.wait_ready()
    assert mesh.pid("postgres") not in (None, before)
    with psycopg.connect(mesh.running.owner_url()) as connection:
        assert connection.execute("SELECT x FROM kept").fetchall() == [(1,)]


def test_valkey_comes_back_with_what_reached_its_file(mesh: Mesh) -> None:
    with redis.Redis.from_url(mesh.running.redis_url()) as client:
        client.set("kept", "1")
        assert client.waitaof(1, 0, 5000)[0] == 1
    mesh.kill("valkey")
    mesh.wait_ready()
    with redis.Redis.from_url(mesh.running.redis_url()) as client:
        assert client.get("kept") == b"1"


def test_a_held_part_stays_down_until_released(mesh: Mesh) -> None:
    mesh.hold("spans")
    assert mesh.pid("spans") is None
    assert mesh.pids("spans") == []
    mesh.release("spans")
    mesh.wait_ready(["spans"])
    assert mesh.pid("spans") is not None


def test_another_process_finds_the_mesh(mesh: Mesh) -> None:
    found = find(mesh.folder.path)
    assert {process.name for process in found.processes} == set(mesh.names())
    assert found.redis_url() == mesh.running.redis_url()


def test_an_unknown_part_is_named_with_those_there_are(mesh: Mesh) -> None:
    with pytest.raises(UnknownPart, match=r"no part 'chat-9'; there are valkey, spans, postgres"):
        mesh.kill("chat-9")


def test_no_mesh_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="chatmesh up"):
        find(tmp_path)
