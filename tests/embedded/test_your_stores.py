"""CHATMESH_POSTGRES_URL and CHATMESH_REDIS_URL: a mesh on servers that somebody else runs."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from chatmesh.embedded.errors import StartFailed
from chatmesh.embedded.postgres import SERVICE_ROLES, as_role, role_passwords
from chatmesh.embedded.supervisor import Mesh, MeshOptions


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Servers that are not the mesh's own; in truth those of another mesh."""
    data = tmp_path_factory.mktemp("theirs") / "data"
    with Mesh(MeshOptions(data=data, ports="auto", servers=False)) as mesh:
        yield mesh


def test_yours_are_used_and_left_running(theirs: Mesh, tmp_path: Path) -> None:
    owner_url, redis_url = theirs.running.owner_url(), theirs.running.redis_url()
    for folder in ("a", "b"):  # a second one on the same server shuts nobody out
        options = MeshOptions(
            data=tmp_path / folder,
            ports="auto",
            servers=False,
            postgres_url=owner_url,
            redis_url=redis_url,
        )
        with Mesh(options) as mesh:
            assert mesh.names() == ["spans"]
            assert mesh.running.owner_url() == owner_url
            assert not mesh.folder.postgres.exists()
    passwords = role_passwords(mesh.folder, owner_url)
    for role in SERVICE_ROLES.values():
        with psycopg.connect(as_role(owner_url, role, passwords[role])) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (role,)
    assert theirs.pid("postgres") is not None
    assert theirs.pid("valkey") is not None


def test_a_redis_that_does_not_answer_is_told(tmp_path: Path) -> None:
    options = MeshOptions(
        data=tmp_path / "data", ports="auto", servers=False, redis_url="redis://127.0.0.1:1/0"
    )
    with pytest.raises(
        StartFailed, match=r"Redis of CHATMESH_REDIS_URL cannot be used: .*127.0.0.1"
    ):
        Mesh(options).start()


def test_a_redis_that_may_evict_is_refused(theirs: Mesh, tmp_path: Path) -> None:
    url = theirs.running.redis_url()
    with redis.Redis.from_url(url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        options = MeshOptions(data=tmp_path / "data", ports="auto", servers=False, redis_url=url)
        try:
            with pytest.raises(StartFailed, match=r"allkeys-lru and may evict.*noeviction"):
                Mesh(options).start()
        finally:
            client.config_set("maxmemory-policy", "noeviction")


def test_a_postgres_that_may_lose_commits_is_refused(tmp_path: Path) -> None:
    options = MeshOptions(
        data=tmp_path / "data", ports="auto", servers=False, postgres_settings={"fsync": "off"}
    )
    with pytest.raises(StartFailed, match="fsync = off and may lose acknowledged commits"):
        Mesh(options).start()


def test_both_stores_are_looked_at_before_anything_starts(tmp_path: Path) -> None:
    options = MeshOptions(
        data=tmp_path / "data",
        ports="auto",
        postgres_url="postgresql://a:secret@127.0.0.1:1/x",
        redis_url="redis://:secret@127.0.0.1:1",
    )
    said: list[str] = []
    with pytest.raises(StartFailed) as refusal:
        Mesh(options, said.append).start()
    text = str(refusal.value)
    assert "PostgreSQL of CHATMESH_POSTGRES_URL cannot be reached" in text
    assert "unset CHATMESH_POSTGRES_URL to let chatmesh run" in text
    assert "Redis of CHATMESH_REDIS_URL cannot be used" in text
    assert "secret" not in text
    assert said == []


def test_wrong_settings_of_any_server_are_told_before_anything_starts(tmp_path: Path) -> None:
    options = MeshOptions(
        data=tmp_path / "data",
        ports="auto",
        postgres_url="http://secret",
        redis_url="redis://:secret@host:port",
        environment={
            "*": {"CHATMESH_LOG_LEVEL": "loud", "CHATMESH_LOG_FORMATS": "json"},
            "sync_svc": {"CHATMESH_SYNC_STREAMS": "0"},
        },
    )
    said: list[str] = []
    with pytest.raises(StartFailed) as refusal:
        Mesh(options, said.append).start()
    first, *lines = str(refusal.value).splitlines()
    assert first == "5 settings are wrong:"
    for name in ("POSTGRES_URL", "REDIS_URL", "LOG_LEVEL=", "LOG_FORMATS", "SYNC_STREAMS"):
        assert sum(f"CHATMESH_{name}" in line for line in lines) == 1, name
    assert "secret" not in str(refusal.value)
    assert said == []


def test_a_url_may_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHATMESH_REDIS_URL", raising=False)
    monkeypatch.setenv("CHATMESH_REDIS_URL_FILE", str(tmp_path / "url"))
    with pytest.raises(StartFailed, match="CHATMESH_REDIS_URL_FILE: cannot read"):
        MeshOptions()
    (tmp_path / "url").write_text("redis://127.0.0.1:1\n")
    assert MeshOptions().redis_url == "redis://127.0.0.1:1"


@pytest.mark.parametrize("url", ["http://x", "redis+cluster://:secret@127.0.0.1:1"])
def test_no_password_in_a_refusal(url: str, tmp_path: Path) -> None:
    options = MeshOptions(data=tmp_path / "data", ports="auto", servers=False, redis_url=url)
    with pytest.raises(StartFailed, match="CHATMESH_REDIS_URL") as refusal:
        Mesh(options).start()
    assert "secret" not in str(refusal.value)


def test_an_owner_who_may_not_make_roles_is_told(theirs: Mesh, tmp_path: Path) -> None:
    with psycopg.connect(theirs.running.owner_url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
    options = MeshOptions(
        data=tmp_path / "data",
        ports="auto",
        servers=False,
        postgres_url=as_role(theirs.running.owner_url(), "weak", "weak"),
        redis_url=theirs.running.redis_url(),
    )
    with pytest.raises(StartFailed, match=r"may not make roles.*CREATEROLE"):
        Mesh(options).start()


def test_a_role_takes_the_place_of_the_owner_in_any_form_of_url() -> None:
    for url in (
        "postgresql://owner:secret@db.example:5432/chat?sslmode=verify-full",
        "postgresql:///chat?user=owner&password=secret&host=%2Frun%2Fpg",
    ):
        changed = psycopg.conninfo.conninfo_to_dict(as_role(url, "chatmesh_chat", "p@ss/word"))
        assert changed["user"] == "chatmesh_chat"
        assert changed["password"] == "p@ss/word"
        assert changed["dbname"] == "chat"
