"""`chatmesh config` as somebody who rolls out settings uses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chatmesh.cli.config import SERVICES, settings_class
from chatmesh.runtime.settings import variable
from chatmesh.runtime.settings_public import IssuerSettings
from chatmesh.runtime.settings_told import holds_secret, told, url_without_secrets
from tests.cli.running import chatmesh

if TYPE_CHECKING:
    from chatmesh.embedded.running import RunningMesh

CANARY = "c4nary-of-a-secret-that-nobody-may-print"
GOOD = {
    "CHATMESH_MESH_LISTEN": "127.0.0.1:7011",
    "CHATMESH_PUBLIC_LISTEN": "127.0.0.1:7030",
    "CHATMESH_SEQUENCER_TARGET": "127.0.0.1:7021",
    "CHATMESH_PRESENCE_TARGET": "127.0.0.1:7011",
    "CHATMESH_SYNC_TARGET": "127.0.0.1:7041",
    "CHATMESH_PUSH_TARGET": "127.0.0.1:7051",
    "CHATMESH_HINT_KEY": CANARY,
    "CHATMESH_POSTGRES_URL": f"postgresql://chat:{CANARY}@db:5432/chat?password={CANARY}",
    "CHATMESH_REDIS_URL": f"redis://:{CANARY}@redis:6379/0",
    "CHATMESH_DEV_SECRET": CANARY,
    "CHATMESH_EMBEDDED": "true",
}


def config(*arguments: str, environ: dict[str, str], code: int = 0) -> str:
    """What `chatmesh config` says on stdout; no secret is in anything that it says."""
    done = chatmesh("config", *arguments, code=code, timeout_seconds=60, text="", **environ)
    assert CANARY not in done.stdout + done.stderr
    return done.stdout


def test_good_settings_are_good() -> None:
    assert config("check", environ=GOOD) == "good: chat, presence, push, sequencer, sync\n"


def test_all_that_is_wrong_is_told_at_once_with_code_2() -> None:
    wrong = {
        "CHATMESH_REACH": "everybody",
        "CHATMESH_LOG_LEVEL": "loud",
        "CHATMESH_LIMIT_MAX_DEVICES": "0",
        "CHATMESH_PUSH_TTL_SECONDS": "-1",
        "CHATMESH_HINT_KEY": "short",
        "CHATMESH_REEACH": "tenant",
        "CHATMESH_MESH_TLS_CA_FILE": "/nonexistent",
    }
    said = config("check", code=2, environ={**GOOD, **wrong})
    for name in wrong:
        assert name in said
    assert "chat, presence, push, sequencer, sync: CHATMESH_LOG_LEVEL='loud'" in said
    assert "did you mean CHATMESH_REACH?" in said
    document = json.loads(config("check", "push", "--json", code=2, environ={**GOOD, **wrong}))
    assert document["checked"] == ["push"]
    assert not any("CHATMESH_REACH=" in one["problem"] for one in document["problems"])


def test_each_value_is_told_with_where_it_came_from(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(CANARY)
    given = {**GOOD, "CHATMESH_HINT_KEY_FILE": str(secret), "CHATMESH_REACH": "contacts"}
    del given["CHATMESH_HINT_KEY"]
    said = config("show", "chat", "--json", environ=given)
    rows = {row["name"]: row for row in json.loads(said)["servers"][0]["settings"]}
    assert rows.keys() == {variable(name) for name in settings_class("chat_svc").model_fields}
    told_as = {name: (row["value"], row["origin"]) for name, row in rows.items()}
    assert told_as["CHATMESH_REACH"] == ("contacts", "env")
    assert told_as["CHATMESH_HINT_KEY"] == ("(hidden)", "file")
    assert rows["CHATMESH_HINT_KEY"]["file"] == str(secret)
    assert told_as["CHATMESH_LOG_LEVEL"] == ("info", "default")
    assert told_as["CHATMESH_POSTGRES_URL"] == ("postgresql://db:5432/chat", "env")
    text = config("show", "chat", "--changed", environ=given)
    assert f"[file {secret}]" in text
    assert "CHATMESH_LOG_LEVEL" not in text


def test_an_env_file_is_read_instead_of_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "chat.env"
    lines = [f"{name}={value}" for name, value in GOOD.items()]
    file.write_text("\n".join(["# of a chat node", "", *lines]))
    chatmesh("config", "check", "--env-file", file)
    file.write_text("\n".join([*lines, "nonsense"]))
    done = chatmesh("config", "check", "--env-file", file, code=2)
    assert f"line {len(lines) + 1} is not NAME=VALUE" in done.stderr
    assert "nothing" in chatmesh("config", "check", "nothing", code=2).stderr


@pytest.mark.parametrize("module", SERVICES)
def test_no_secret_is_told_whatever_is_wrong(module: str) -> None:
    cls = settings_class(module)
    secrets = [name for name, field in cls.model_fields.items() if holds_secret(field.annotation)]
    assert secrets
    for others in ({}, {"CHATMESH_LOG_LEVEL": "bad"}):
        environ = {variable(name): CANARY for name in secrets} | others
        environ["CHATMESH_ISSUERS"] = f'[{{"issuer": "i", "audience": "a", "secret": "{CANARY}"'
        for row in told(cls, environ):
            assert CANARY not in row.value, row.name
            if row.name in environ and row.name not in others:
                assert row.origin == "env"


def test_a_secret_within_a_list_is_hidden() -> None:
    assert holds_secret(tuple[IssuerSettings, ...])
    assert holds_secret(settings_class("push_svc").model_fields["push_webhook_secrets"].annotation)
    issuer = {"issuer": "i", "audience": "a", "secret": CANARY, "algorithms": ["HS256"]}
    environ = {**GOOD, "CHATMESH_ISSUERS": json.dumps([issuer])}
    rows = {row.name: row.value for row in told(settings_class("chat_svc"), environ)}
    assert CANARY not in rows["CHATMESH_ISSUERS"]
    assert '"issuer": "i"' in rows["CHATMESH_ISSUERS"], "the others are told"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h1:1,h2:2/db?sslmode=require", "postgresql://h1:1,h2:2/db"),
        ("redis://canary@h/0", "redis://h/0"),
        ("postgresql://u:ca/nary@h/db", "(hidden)"),
        ("postgresql://u:can#ary@h/db", "(hidden)"),
        ("postgresql://u:can?ary@h/db", "(hidden)"),
        ("canary", "(hidden)"),
        ("postgresql://[canary", "(hidden)"),
    ],
)
def test_of_a_url_only_the_place_is_told(url: str, shown: str) -> None:
    assert url_without_secrets(url) == shown


@pytest.mark.mesh
def test_the_running_servers_settings_are_told(running_mesh: RunningMesh) -> None:
    done = chatmesh("config", "show", "--running", "--json", "--data", running_mesh.folder.path)
    servers = json.loads(done.stdout)["servers"]
    ours = [one.name for one in running_mesh.processes if one.service in SERVICES]
    assert [server["name"] for server in servers] == ours
    servers = [server for server in servers if server["service"] == "chat_svc"]
    rows = {row["name"]: row for row in servers[0]["settings"]}
    assert rows["CHATMESH_NODE_NAME"]["value"] == servers[0]["name"]
    assert rows["CHATMESH_DEV_SECRET"]["origin"] == "file"
    for secret in (running_mesh.owner_url(), running_mesh.redis_url()):
        assert secret not in done.stdout
    chatmesh("config", "check", "--running", "--data", running_mesh.folder.path)


def test_the_reference_pages_are_of_this_code() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "tools/reference_pages.py", "--check"],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
