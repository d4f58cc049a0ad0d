"""Counts of a whole running mesh: calls to its stores, and what its servers tally of themselves."""

import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, fields

import psycopg
import redis
from prometheus_client.parser import text_string_to_metric_families

from chatmesh.embedded.running import RunningMesh

_SERVICES_CALLS = (
    "SELECT coalesce(sum(s.calls), 0)::bigint FROM pg_stat_statements s"
    " JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname LIKE 'chatmesh\\_%'"
)
"""Calls by the services' roles: the owner's are ours, who measure."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Since each process began."""

    postgres_calls: float
    redis_commands: float
    mesh_frames: float
    tasks: float
    spans: float
    log_lines: float

    def since(self, earlier: "Counts", messages: int) -> dict[str, float]:
        """What each message cost between two counts."""
        return {
            field.name: (getattr(self, field.name) - getattr(earlier, field.name)) / messages
            for field in fields(self)
        }


def prepare(mesh: RunningMesh) -> None:
    """Makes PostgreSQL's own counting visible; its library is loaded already."""
    with psycopg.connect(mesh.owner_url(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")


def count(mesh: RunningMesh) -> Counts:
    """Everything, now."""
    tally = _tally(mesh)
    return Counts(
        postgres_calls=_postgres_calls(mesh.owner_url()),
        redis_commands=_redis_commands(mesh.redis_url()),
        mesh_frames=tally["frames_written"] + tally["frames_read"],
        tasks=tally["tasks"],
        spans=tally["spans"],
        log_lines=tally["log_lines"],
    )


def slowest_statements(mesh: RunningMesh, messages: int) -> list[str]:
    """Which statements were called how often per message, for the text of a failure."""
    with psycopg.connect(mesh.owner_url(), autocommit=True) as connection:
        rows = connection.execute(
            "SELECT s.calls, s.query FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid"
            " WHERE r.rolname LIKE 'chatmesh\\_%%' ORDER BY s.calls DESC LIMIT 12"
        ).fetchall()
    return [f"{calls / messages:.3f} {' '.join(query.split())[:100]}" for calls, query in rows]


def _postgres_calls(owner_url: str) -> float:
    with psycopg.connect(owner_url, autocommit=True) as connection:
        row = connection.execute(_SERVICES_CALLS).fetchone()
    return float(row[0]) if row else 0.0


def _redis_commands(url: str) -> float:
    client = redis.Redis.from_url(url)
    try:
        return float(client.info("stats")["total_commands_processed"])
    finally:
        client.close()


def _tally(mesh: RunningMesh) -> Mapping[str, float]:
    """Sums over all servers of `chatmesh_tally_<name>_total`."""
    sums: dict[str, float] = {}
    for process in mesh.processes:
        if not process.metrics:
            continue
        with urllib.request.urlopen(f"http://{process.metrics}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        for family in text_string_to_metric_families(page):
            if family.name.startswith("chatmesh_tally_"):
                name = family.name.removeprefix("chatmesh_tally_")
                sums[name] = sums.get(name, 0.0) + sum(sample.value for sample in family.samples)
    return sums
