"""PostgreSQL and Redis: reachable, durable, of the right schema, and what time they have.

`look_at_…` asks and answers facts with the findings; production rules use the facts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from chatmesh.cli.doctor.findings import Finding, fail, ok, warn
from chatmesh.cli.doctor.subjects import STORED, Subjects

OLDEST_POSTGRES: Final = 180_000
CLOCK_WARN_SECONDS: Final = 1.0
CLOCK_FAIL_SECONDS: Final = 60.0
"""Idempotency keys tell time by the client's clock, tokens by the server's."""
_DURABLE: Final = {"fsync": ("on",), "full_page_writes": ("on",)}

_SETTINGS: Final = """
SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes',
  'synchronous_commit', 'synchronous_standby_names', 'archive_mode', 'data_checksums',
  'autovacuum', 'server_version', 'server_version_num', 'max_connections', 'ssl')
"""
_ABOUT: Final = """
SELECT r.rolsuper, (SELECT count(*) FROM pg_stat_replication),
  pg_is_in_recovery() FROM pg_roles r WHERE r.rolname = session_user
"""
_LIVE_NODES: Final = """
SELECT count(*) FROM chat.chat_node WHERE lease_until_ms > chat.now_ms() AND taken_at_ms = 0
"""


@dataclass(slots=True)
class StoreFacts:
    """What the stores said. Empty: they could not be asked."""

    postgres: dict[str, str] = field(default_factory=dict)
    is_superuser: bool = False
    standbys: int = 0
    is_standby: bool = False
    chat_nodes: int = 0
    redis: dict[str, Any] = field(default_factory=dict)


async def look_at_postgres(subjects: Subjects, facts: StoreFacts) -> list[Finding]:
    """As chat_svc logs in, and each service's own schema as that service does."""
    from chatmesh.runtime.pgsession import connection_string, reason

    found: list[Finding] = []
    for service in STORED:
        url = subjects.secret_of(service, "postgres_url")
        if not url:
            continue
        remedy = "start it, or correct CHATMESH_POSTGRES_URL of this service"
        try:
            text = connection_string(url, "chatmesh doctor", target_session_attrs="any")
            async with await psycopg.AsyncConnection.connect(text, autocommit=True) as store:
                if service == "chat_svc":
                    found += await _about(store, facts)
                found.append(await _schema(store, service))
                if service == "chat_svc":
                    row = await (await store.execute(_LIVE_NODES)).fetchone()
                    facts.chat_nodes = row[0] if row else 0
        except (psycopg.Error, ValueError) as error:
            found.append(fail(f"postgres {service}", f"cannot be used: {reason(error)}", remedy))
    return found


async def _about(store: psycopg.AsyncConnection[Any], facts: StoreFacts) -> list[Finding]:
    facts.postgres = dict(await (await store.execute(_SETTINGS)).fetchall())
    row = await (await store.execute(_ABOUT)).fetchone()
    if row:
        facts.is_superuser, facts.standbys, facts.is_standby = row
    version = facts.postgres["server_version"]
    found = [ok("postgres", f"answers, version {version}")]
    if int(facts.postgres["server_version_num"]) < OLDEST_POSTGRES:
        found = [fail("postgres", f"version {version}", "PostgreSQL 18 or newer is needed")]
    found.append(durability(facts.postgres))
    before = time.time()
    row = await (
        await store.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
    ).fetchone()
    after = time.time()
    found.append(clock("postgres", row[0] if row else 0.0, before, after))
    return found


def durability(settings: dict[str, str]) -> Finding:
    """Whether a commit that was answered is kept."""
    lost = [name for name, good in _DURABLE.items() if settings[name] not in good]
    lost += ["synchronous_commit"] if settings["synchronous_commit"] == "off" else []
    if lost:
        said = ", ".join(f"{name} = {settings[name]}" for name in lost)
        return fail("postgres durability", said, "set to on: acknowledged messages may be lost")
    return ok("postgres durability", f"synchronous_commit = {settings['synchronous_commit']}")


def clock(store: str, theirs: float, before: float, after: float) -> Finding:
    """Compares a store's clock with this machine's, whose reading lies between before and after."""
    off = theirs - after if theirs > after else theirs - before if theirs < before else 0.0
    subject, said = f"clock {store}", f"{abs(off):.3f} s {'ahead' if off > 0 else 'behind'}"
    if not off:
        return ok(subject, f"the same as here, to {after - before:.3f} s")
    if abs(off) < CLOCK_WARN_SECONDS:
        return ok(subject, said)
    level = fail if abs(off) >= CLOCK_FAIL_SECONDS else warn
    return level(subject, said, "let both machines follow the same time servers (chrony, NTP)")


async def _schema(store: psycopg.AsyncConnection[Any], service: str) -> Finding:
    from chatmesh.runtime import migrate
    from chatmesh.runtime.errors import StoreRefused

    needs = migrate.code_version(service)
    subject = f"schema {migrate.schema_of(service)}"
    try:
        await migrate.require_schema(store, service, needs)
    except StoreRefused as error:
        return fail(subject, str(error), "run `chatmesh migrate`, or start the release that fits")
    return ok(subject, f"fits this release, which needs {needs}")


async def look_at_redis(subjects: Subjects, facts: StoreFacts) -> list[Finding]:
    """The first Redis URL among the services that have one."""
    from redis.exceptions import RedisClusterException, RedisError

    from chatmesh.runtime import redis
    from chatmesh.runtime.errors import StoreRefused

    services = ("presence_svc", "sync_svc", "chat_svc")
    url = next((u for one in services if (u := subjects.secret_of(one, "redis_url"))), "")
    if not url:
        return []
    client = redis.client(url)
    try:
        before = time.time()
        moment: Any = await client.time()
        after = time.time()
        memory: Any = await client.info("memory")
        facts.redis = memory if "maxmemory_policy" in memory else next(iter(memory.values()), {})
        found = [ok("redis", "answers")]
        if isinstance(moment, tuple):  # a cluster answers by node
            found.append(clock("redis", moment[0] + moment[1] / 1e6, before, after))
        await redis.check(client)
        found.append(ok("redis policy", "noeviction"))
    except StoreRefused as refusal:
        return [
            *found,
            fail("redis policy", str(refusal), "CONFIG SET maxmemory-policy noeviction"),
        ]
    except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
        said = f"cannot be used: {type(error).__name__}"
        return [fail("redis", said, "start it, or correct CHATMESH_REDIS_URL")]
    finally:
        await client.aclose()
    return found
