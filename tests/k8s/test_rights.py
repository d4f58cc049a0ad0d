"""docs/rights.md is enough: its statements are run, then a mesh with these logins and no others."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis

from chatmesh.client import Client, PresenceState
from chatmesh.testing.mesh import RunningChat, start_mesh
from tests.k8s.rendering import ROOT

pytestmark = pytest.mark.mesh
TEXT = (ROOT / "docs/rights.md").read_text()
ROLES = ("chatmesh_chat", "chatmesh_push", "chatmesh_sequencer")


def block(language: str) -> list[str]:
    """The statements of the page's only block of a language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [line for line in text.splitlines() if line and not line.startswith("--")]


def login(url: str, user: str, database: str = "") -> str:
    """The URL with another login, whose password is the page's."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    netloc = f"{user}:{user.removeprefix('chatmesh_')}-password@{place}"
    return urlunsplit(parts._replace(netloc=netloc, path=database or parts.path))


def execute(client: redis.Redis, *words: str) -> object:
    """One command as it is written."""
    answer: object = client.execute_command(*words)  # type: ignore[no-untyped-call]
    return answer


@dataclass(frozen=True)
class Limited:
    """A mesh whose servers have the page's rights."""

    chat: RunningChat
    administrator: redis.Redis
    owner_url: str


@pytest.fixture(scope="module")
def limited() -> Iterator[Limited]:
    with start_mesh(servers=False, postgres_url=None, redis_url=None) as theirs:
        running = theirs.mesh.running
        with psycopg.connect(running.owner_url(), autocommit=True) as administrator:
            for role in ROLES:  # the embedded server has made them for itself
                administrator.execute(f"DROP OWNED BY {role}".encode())
                administrator.execute(f"DROP ROLE {role}".encode())
            for statement in block("sql"):
                if not statement.startswith("CREATE DATABASE"):
                    administrator.execute(statement.encode())
                else:  # beside the embedded one, which has this name
                    renamed = statement.replace("DATABASE chatmesh ", "DATABASE theirs ")
                    administrator.execute(renamed.encode())
        client = redis.Redis.from_url(running.redis_url())
        for statement in block("redis"):
            execute(client, *statement.split())
        owner_url = login(running.owner_url(), "chatmesh_owner", "/theirs")
        environment = {
            module: {"CHATMESH_REDIS_URL": login(running.redis_url(), user)}
            for module, user in (("presence_svc", "presence"), ("sync_svc", "sync"))
        }
        with start_mesh(
            postgres_url=owner_url, redis_url=running.redis_url(), environment=environment
        ) as chat:
            yield Limited(chat, client, owner_url)
        client.close()


async def test_a_mesh_with_these_rights_works(limited: Limited) -> None:
    chat = limited.chat
    async with chat.client("alice") as alice, chat.client("bob", node=1) as bob:
        await alice.send(to_user="bob", text="hello")
        await _read(bob, "hello")
        await bob.send(to_user="alice", text="hello yourself")
        await _read(alice, "hello yourself")
        async for presence in alice.presence():
            if presence.user_id == "bob" and presence.state is PresenceState.ONLINE:
                break
    log = execute(limited.administrator, "ACL", "LOG")
    assert log == [], "a command or key that the page does not allow"


async def _read(client: Client, text: str) -> None:
    async for entry in client.entries():
        if entry.text == text:
            return


def test_services_own_nothing_and_the_owner_is_no_superuser(limited: Limited) -> None:
    with psycopg.connect(limited.owner_url) as connection:
        row = connection.execute(
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert row == (False,)
        owners = connection.execute(
            "SELECT DISTINCT tableowner FROM pg_tables"
            " WHERE schemaname IN ('chat', 'push', 'sequencer')"
        ).fetchall()
    assert owners == [("chatmesh_owner",)]


def test_presence_may_not_read_the_queue(limited: Limited) -> None:
    url = limited.chat.mesh.running.redis_url()
    with (
        redis.Redis.from_url(login(url, "presence")) as client,
        pytest.raises(redis.ResponseError, match=r"(?i)no permissions|noperm"),
    ):
        client.xlen("{sync:0}:hints")
    execute(limited.administrator, "ACL", "LOG", "RESET")
