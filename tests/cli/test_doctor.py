"""`chatmesh doctor`: what it sees, and that it leaves nothing behind."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from chatmesh.cli import doctor
from chatmesh.cli.config import settings_class
from chatmesh.cli.doctor import delivery
from chatmesh.cli.doctor.production import checklist
from chatmesh.cli.doctor.servers import look_at_certificates
from chatmesh.cli.doctor.stores import StoreFacts, clock, durability
from chatmesh.cli.doctor.subjects import DOCTORS_TENANT, Server, Subjects
from chatmesh.embedded import certificates
from chatmesh.runtime.settings import load
from tests.cli.running import chatmesh
from tests.cli.test_config import GOOD

if TYPE_CHECKING:
    from chatmesh.embedded.running import RunningMesh

POSTGRES = {
    "synchronous_standby_names": "ANY 1 (a, b)",
    "archive_mode": "on",
    "autovacuum": "on",
    "data_checksums": "on",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
}
ISSUER = {"issuer": "https://id.example", "audience": "chat", "jwks_url": "https://id.example/k"}


@pytest.fixture
def files(tmp_path: Path) -> certificates.CertificateFiles:
    certificates.issue(tmp_path, ["chat_svc"])
    return certificates.files_of(tmp_path, "chat_svc")


def produced(
    files: certificates.CertificateFiles, **changes: str
) -> tuple[dict[str, str], Subjects]:
    """A deployment on which nothing is to be blamed, with some variables changed ("" = unset)."""
    given = {
        **GOOD,
        "CHATMESH_DEV_SECRET": "",
        "CHATMESH_EMBEDDED": "",
        "CHATMESH_ISSUERS": json.dumps([ISSUER]),
        "CHATMESH_POSTGRES_URL": "postgresql://c@db.example/chat?sslmode=verify-full",
        "CHATMESH_REDIS_URL": "rediss://redis.example/0",
        "CHATMESH_MESH_TLS_CA": str(files.ca),
        "CHATMESH_MESH_TLS_CERT": str(files.certificate),
        "CHATMESH_MESH_TLS_KEY": str(files.key),
        "CHATMESH_PUBLIC_TLS_CERT": str(files.certificate),
        "CHATMESH_PUBLIC_TLS_KEY": str(files.key),
        "CHATMESH_METRICS_LISTEN": "127.0.0.1:9100",
        "CHATMESH_PUSH_WEBHOOK_SECRETS": json.dumps(["s" * 32]),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel.example:4317",
        **changes,
    }
    environ = {name: value for name, value in given.items() if value}
    subjects = Subjects()
    for name in ("chat", "push", "sync", "sequencer"):
        settings = load(settings_class(f"{name}_svc"), environ)
        subjects.servers.append(Server(name, f"{name}_svc", settings))
    return environ, subjects


def facts(**changes: Any) -> StoreFacts:
    values: dict[str, Any] = {
        "postgres": POSTGRES, "standbys": 2, "chat_nodes": 3, "redis": {"maxmemory": 1 << 30},
    }  # fmt: skip
    return StoreFacts(**{**values, **changes})


def test_a_good_deployment_is_good(files: certificates.CertificateFiles) -> None:
    environ, subjects = produced(files)
    findings = checklist(subjects, facts(), environ)
    assert [one for one in findings if one.level != "ok"] == []
    assert len({one.subject for one in findings}) == len(findings) > 8


@pytest.mark.parametrize(
    ("changes", "subject", "level"),
    [
        ({"CHATMESH_ISSUERS": "", "CHATMESH_DEV_SECRET": "d" * 32, "CHATMESH_EMBEDDED": "true"},
         "login", "fail"),
        ({"CHATMESH_EMBEDDED": "true"}, "embedded", "fail"),
        ({"CHATMESH_UNKNOWN_RECIPIENTS": "make"}, "recipients", "warn"),
        (dict.fromkeys(("CHATMESH_MESH_TLS_CA", "CHATMESH_MESH_TLS_CERT",
                        "CHATMESH_MESH_TLS_KEY"), ""), "mesh TLS", "fail"),
        (dict.fromkeys(("CHATMESH_PUBLIC_TLS_CERT", "CHATMESH_PUBLIC_TLS_KEY"), ""),
         "public TLS", "fail"),
        ({"CHATMESH_PUBLIC_TLS_CERT": "", "CHATMESH_PUBLIC_TLS_KEY": "",
          "CHATMESH_PUBLIC_INSECURE": "true"}, "public TLS", "warn"),
        ({"CHATMESH_PUBLIC_REFLECTION": "true"}, "reflection", "warn"),
        ({"CHATMESH_HINT_KEY": "sixteen letters."}, "hint key", "warn"),
        ({"CHATMESH_POSTGRES_DURABLE": "false"}, "durable chat_svc", "fail"),
        ({"CHATMESH_POSTGRES_URL": "postgresql://c@db.example/chat"}, "postgres TLS chat_svc",
         "warn"),
        ({"CHATMESH_REDIS_URL": "redis://redis.example/0"}, "redis TLS", "warn"),
        ({"CHATMESH_PUSH_WEBHOOK_SECRETS": ""}, "push", "warn"),
        ({"CHATMESH_PUSH_PROVIDERS": '["log"]', "CHATMESH_EMBEDDED": "true"}, "push", "fail"),
        ({"CHATMESH_METRICS_LISTEN": ""}, "metrics", "warn"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, "traces", "warn"),
        ({"CHATMESH_LOG_LEVEL": "debug"}, "logs", "warn"),
    ],
)  # fmt: skip
def test_each_setting_is_looked_at(
    files: certificates.CertificateFiles, changes: dict[str, str], subject: str, level: str
) -> None:
    environ, subjects = produced(files, **changes)
    (found,) = [one for one in checklist(subjects, facts(), environ) if one.subject == subject]
    assert found.level == level
    assert found.remedy


@pytest.mark.parametrize(
    ("changes", "subject", "level"),
    [
        ({"postgres": {**POSTGRES, "synchronous_standby_names": ""}}, "failover", "fail"),
        ({"postgres": {**POSTGRES, "synchronous_standby_names": ""}, "standbys": 0}, "failover",
         "warn"),
        ({"postgres": {**POSTGRES, "archive_mode": "off"}}, "backup", "warn"),
        ({"postgres": {**POSTGRES, "autovacuum": "off"}}, "autovacuum", "fail"),
        ({"postgres": {**POSTGRES, "data_checksums": "off"}}, "checksums", "warn"),
        ({"is_superuser": True}, "rights", "fail"),
        ({"redis": {"maxmemory": 0}}, "redis memory", "warn"),
        ({"chat_nodes": 1}, "chat nodes", "warn"),
    ],
)  # fmt: skip
def test_each_fact_is_looked_at(
    files: certificates.CertificateFiles, changes: dict[str, Any], subject: str, level: str
) -> None:
    environ, subjects = produced(files)
    findings = checklist(subjects, facts(**changes), environ)
    (found,) = [one for one in findings if one.subject == subject]
    assert (found.level, bool(found.remedy)) == (level, True)


@pytest.mark.parametrize("name", ["fsync", "full_page_writes", "synchronous_commit"])
def test_a_server_that_loses_commits_fails(name: str) -> None:
    assert durability(POSTGRES).level == "ok"
    found = durability({**POSTGRES, name: "off"})
    assert (found.level, f"{name} = off" in found.text) == ("fail", True)


@pytest.mark.parametrize(
    ("theirs", "level"),
    [(10.1, "ok"), (10.9, "ok"), (11.9, "warn"), (8.5, "warn"), (71.0, "fail"), (-60.0, "fail")],
)
def test_a_clock_is_compared_with_when_it_was_read(theirs: float, level: str) -> None:
    assert clock("postgres", theirs, 10.0, 10.2).level == level


@pytest.mark.parametrize(("days", "level"), [(0, "ok"), (340, "warn"), (400, "fail")])
def test_certificates_are_told_before_they_end(
    files: certificates.CertificateFiles, days: int, level: str
) -> None:
    _, subjects = produced(files)
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    found = look_at_certificates(subjects, now)
    assert [one.level for one in found] == [level] * 2, "each file once"
    files.certificate.write_text("nonsense")
    assert [one.level for one in look_at_certificates(subjects, now)][1] == "fail"


def told(*arguments: str | Path, code: int = 0, **environment: str) -> dict[str, dict[str, str]]:
    """Findings by subject."""
    done = chatmesh("doctor", "--json", *arguments, code=code, timeout_seconds=120, **environment)
    return {one["subject"]: one for one in json.loads(done.stdout)["findings"]}


@pytest.mark.mesh
def test_a_running_mesh_is_well_and_nothing_is_left(running_mesh: RunningMesh) -> None:
    at = ("--data", running_mesh.folder.path)
    found = told(*at)
    assert {one["level"] for one in found.values()} == {"ok"}
    nodes = [one.name for one in running_mesh.processes if one.public]
    pairs = {f"delivery {a} to {b}" for a in nodes for b in nodes if a != b}
    servers = {f"server {one.name}" for one in running_mesh.processes if one.metrics}
    stores = {"postgres", "postgres durability", "redis policy", "clock redis", "schema push"}
    assert pairs | servers | stores <= found.keys()
    with psycopg.connect(running_mesh.owner_url()) as store:
        left = store.execute(
            "SELECT count(*) FROM chat.account a JOIN chat.tenant t ON t.id = a.tenant"
            " WHERE t.name = %s AND a.external_id LIKE 'doctor-%%'",
            (DOCTORS_TENANT,),
        ).fetchone()
        assert left == (0,)
    checks = told("--production", *at, code=1)
    assert checks["login"]["level"] == "fail", "a development mesh is none for real people"


@pytest.mark.mesh
def test_elsewhere_a_token_is_enough(running_mesh: RunningMesh) -> None:
    user, tenant = f"checked-{os.getpid()}", f"doctor-{os.getpid()}"
    targets = [part for one in running_mesh.public for part in ("--target", one)]
    at = ("--data", running_mesh.folder.path)
    token = running_mesh.token(user, tenant=tenant)
    found = told(*targets, *at, CHATMESH_TOKEN=token)
    one, other = running_mesh.public[:2]
    assert found[f"delivery {one} to {other}"]["level"] == "ok"
    assert found[f"delivery {other} to {one}"]["level"] == "ok"
    with psycopg.connect(running_mesh.owner_url()) as store:
        left = store.execute(
            "SELECT (SELECT count(*) FROM chat.device d WHERE d.account = a.id),"
            " (SELECT count(*) FROM chat.event e WHERE e.sender = a.id AND e.kind = 1"
            "   AND e.body <> '')"
            " FROM chat.account a WHERE a.external_id = %s",
            (user,),
        ).fetchone()
        assert left == (0, 0)


def test_what_cannot_be_reached_is_told_without_a_secret() -> None:
    environ = {**GOOD, "CHATMESH_POSTGRES_URL": "postgresql://c:canary@127.0.0.1:1/chat"}
    environ |= {"CHATMESH_REDIS_URL": "redis://:canary@127.0.0.1:1/0"}
    arguments = ("doctor", "chat", "sync")
    done = chatmesh(*arguments, code=1, timeout_seconds=120, text="", **environ)
    assert "FAIL postgres chat_svc: cannot be used" in done.stdout
    assert "FAIL redis: cannot be used" in done.stdout
    assert "WARN delivery: not tried" in done.stdout
    assert "canary" not in done.stdout + done.stderr


@pytest.mark.mesh
async def test_a_node_that_delivers_nothing_fails(
    running_mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", 0.5)
    places = delivery.places_of(running_mesh)[:1]
    nowhere = delivery.Place("away", "127.0.0.1:1", "nobody", places[0].token)
    async with doctor._admin(running_mesh, places[0].target) as admin:
        (found,) = await delivery.look_at_delivery([*places, nowhere], tls=None, admin=admin)
    assert (found.level, "cannot connect" in found.text) == ("fail", True)

    async def deaf(device: delivery._Device) -> None:
        """Hears nothing."""

    monkeypatch.setattr(delivery, "_listen", deaf)
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", 2.0)
    both = delivery.places_of(running_mesh)[:2]
    async with doctor._admin(running_mesh, both[0].target) as admin:
        findings = await delivery.look_at_delivery(both, tls=None, admin=admin)
    assert [one.level for one in findings] == ["fail", "fail"]
