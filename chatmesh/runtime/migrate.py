"""Migrations of one service's schema, and the check that a server and its schema fit.

Files: `<package>/store/migrations/{pre,post}/NNNN-name.sql`. `pre` runs before a new release (adds
what it needs, harms nothing older), `post` after it (takes away what nothing uses any more). The
number before the first dash is the schema version; it rises over both folders.

A post migration names the oldest version whose code can still run after it in a line
`-- needs-code: N`; a server older than that refuses to start its store instead of failing oddly.

The schema `<service>` (package name without `_svc`) and its role `chatmesh_<service>` are made
here; the role may read and write the schema's tables, owns nothing and has no DDL.

Rules: run by the owner's login, never by a server; blocking (a tool, not a loop). One migrator at
a time by a session advisory lock: yoyo's own lock is a row that survives a killed migrator.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final, Literal

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI

from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.logs import logger

Stage = Literal["pre", "post"]
STAGES: Final[tuple[Stage, ...]] = ("pre", "post")
LOCK_KEY: Final = 0x63686174_6D657368
""""chatmesh" in ASCII: the advisory lock that one migrator holds."""
LOCK_POLL_SECONDS: Final = 0.1
ROLE_PREFIX: Final = "chatmesh_"
APPEND_ONLY: Final = "append-only"
"""Comment of a table (COMMENT ON TABLE) that the service may read and add to, nothing else."""

_NAME: Final = re.compile(r"(\d{4})-[a-z0-9][a-z0-9-]*")
_PACKAGE: Final = re.compile(r"[a-z][a-z0-9]*_svc")
_NEEDS_CODE: Final = re.compile(r"^--\s*needs-code:\s*(\d+)\s*$", re.MULTILINE)

_APPEND_ONLY_TABLES: Final = """
select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %s and c.relkind in ('r', 'p') and obj_description(c.oid, 'pg_class') = %s
"""

_log = logger(__name__)


def schema_of(package: str) -> str:
    """The schema of a service package: `chat_svc` → `chat`. ValueError for other names."""
    if not _PACKAGE.fullmatch(package):
        raise ValueError(f"{package!r} is not the name of a service package")
    return package.removesuffix("_svc")


def role_of(package: str) -> str:
    """The role that a service's connections take: `chat_svc` → `chatmesh_chat`."""
    return ROLE_PREFIX + schema_of(package)


def code_version(package: str) -> int:
    """The schema version that this code needs: the highest number among its pre migrations."""
    return max((number for number, _ in _migrations(package, "pre")), default=0)


def apply(owner_url: str, package: str, stage: Stage) -> list[str]:
    """Apply one stage; the names applied now, in order. Blocking.

    `owner_url` logs in as the owner of the database (or a role that may create schemas and
    roles). Raises psycopg.Error for what the server refuses (a failed migration is rolled back),
    ValueError for bad file names.
    """
    schema, role = schema_of(package), role_of(package)
    numbered = _migrations(package, stage)
    with psycopg.connect(owner_url, autocommit=True) as lock:
        _lock(lock)
        _prepare(lock, schema, role)
        applied: list[str] = []
        if numbered:
            with _folder(package, stage) as folder:
                applied = _run(owner_url, schema, folder)
        _grant(lock, schema, role)
        _note_version(lock, schema, package)
    if applied:
        _log.info("migrations applied", service=package, stage=stage, names=applied)
    return applied


async def require_schema(connection: AsyncConnection[Any], service: str, needs: int) -> None:
    """Check that the schema of `service` (package name) fits code that needs version `needs`.

    Raises StoreRefused, saying what to do, when it is too old or too new.
    """
    schema = schema_of(service)
    cursor = await connection.execute(
        "select to_regclass(%s) is not null", (f"{schema}.schema_version",)
    )
    row = await cursor.fetchone()
    version, needs_code = 0, 0
    if row is not None and row[0]:
        cursor = await connection.execute(
            sql.SQL("select version, needs_code from {}").format(
                sql.Identifier(schema, "schema_version")
            )
        )
        found = await cursor.fetchone()
        if found is not None:
            version, needs_code = found
    if version < needs:
        raise StoreRefused(
            f"the schema {schema} has version {version}, this server needs {needs}: "
            "run `chatmesh migrate`"
        )
    if needs_code > needs:
        raise StoreRefused(
            f"the schema {schema} needs servers of version {needs_code} or newer, this one has "
            f"{needs}: start a newer release"
        )


def _migrations(package: str, stage: Stage) -> list[tuple[int, str]]:
    """(number, text) of each file. ValueError for bad or repeated numbers over both stages."""
    schema_of(package)
    numbers: dict[int, str] = {}
    found: list[tuple[int, str]] = []
    for folder in STAGES:
        root = files(package) / "store" / "migrations" / folder
        if not root.is_dir():
            continue
        for entry in sorted(root.iterdir(), key=lambda item: item.name):
            if not entry.name.endswith(".sql") or entry.name.endswith(".rollback.sql"):
                continue
            match = _NAME.fullmatch(entry.name.removesuffix(".sql"))
            if match is None:
                raise ValueError(f"{package}: {entry.name} is not named NNNN-name.sql")
            number = int(match.group(1))
            if number in numbers:
                raise ValueError(f"{package}: {entry.name} and {numbers[number]} share a number")
            numbers[number] = entry.name
            if folder == stage:
                found.append((number, entry.read_text("utf-8")))
    return found


@contextmanager
def _folder(package: str, stage: Stage) -> Iterator[Path]:
    with as_file(files(package) / "store" / "migrations" / stage) as path:
        yield path


def _lock(connection: psycopg.Connection[Any]) -> None:
    """Ask again and again instead of waiting inside a statement: a waiting statement holds a
    snapshot, and CREATE INDEX CONCURRENTLY of the migrator that has the lock waits for that.
    """
    while True:
        row = connection.execute("select pg_try_advisory_lock(%s)", (LOCK_KEY,)).fetchone()
        if row is not None and row[0]:
            return
        time.sleep(LOCK_POLL_SECONDS)


def _prepare(connection: psycopg.Connection[Any], schema: str, role: str) -> None:
    if connection.execute("select 1 from pg_roles where rolname = %s", (role,)).fetchone() is None:
        connection.execute(sql.SQL("create role {} nologin").format(sql.Identifier(role)))
    member = connection.execute("select pg_has_role(%s, 'member')", (role,)).fetchone()
    if member is None or not member[0]:  # so that the owner's login may serve as this role, too
        connection.execute(sql.SQL("grant {} to current_user").format(sql.Identifier(role)))
    connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
    connection.execute(
        sql.SQL("grant usage on schema {} to {}").format(
            sql.Identifier(schema), sql.Identifier(role)
        )
    )
    connection.execute(
        sql.SQL(
            "create table if not exists {} ("
            "only_row boolean primary key default true check (only_row), "
            "version integer not null, needs_code integer not null)"
        ).format(sql.Identifier(schema, "schema_version"))
    )


def _grant(connection: psycopg.Connection[Any], schema: str, role: str) -> None:
    """Data of the service's own schema, nothing else; also after a migration made new tables."""
    names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
    with connection.transaction():  # nobody sees the moment in between
        for statement in (
            "grant select, insert, update, delete on all tables in schema {schema} to {role}",
            "grant usage, select on all sequences in schema {schema} to {role}",
            "grant execute on all routines in schema {schema} to {role}",
            "revoke insert, update, delete on {schema}.schema_version from {role}",
        ):
            connection.execute(sql.SQL(statement).format(**names))
        for (table,) in connection.execute(_APPEND_ONLY_TABLES, (schema, APPEND_ONLY)).fetchall():
            connection.execute(
                sql.SQL("revoke update, delete, truncate on {schema}.{table} from {role}").format(
                    table=sql.Identifier(table), **names
                )
            )
    for table in ("_yoyo_migration", "_yoyo_log", "_yoyo_version", "yoyo_lock"):
        present = connection.execute(
            "select to_regclass(%s) is not null", (f"{schema}.{table}",)
        ).fetchone()
        if present and present[0]:
            connection.execute(
                sql.SQL("revoke all on {} from {}").format(
                    sql.Identifier(schema, table), names["role"]
                )
            )


def _run(owner_url: str, schema: str, folder: Path) -> list[str]:
    parameters = {key: str(value) for key, value in conninfo_to_dict(owner_url).items()}
    database = parameters.pop("dbname", "")
    uri = DatabaseURI(
        "postgresql+psycopg", None, None, None, None, database, {**parameters, "schema": schema}
    )
    backend = PostgresqlPsycopgBackend(uri, "_yoyo_migration")
    try:
        backend.init_database()
        backend.break_lock()  # left by a killed migrator; the advisory lock keeps living ones out
        wanted = backend.to_apply(read_migrations(str(folder)))
        names = [migration.id for migration in wanted]
        backend.apply_migrations(wanted)
    finally:
        backend.connection.close()
    return names


def _note_version(connection: psycopg.Connection[Any], schema: str, package: str) -> None:
    version, needs_code = 0, 0
    for stage in STAGES:
        for number, text in _migrations(package, stage):
            if not _is_applied(connection, schema, number):
                continue
            version = max(version, number)
            match = _NEEDS_CODE.search(text)
            if match:
                needs_code = max(needs_code, int(match.group(1)))
    connection.execute(
        sql.SQL(
            "insert into {0} as v (version, needs_code) values (%s, %s) on conflict (only_row) "
            "do update set version = greatest(v.version, excluded.version), "
            "needs_code = greatest(v.needs_code, excluded.needs_code)"
        ).format(sql.Identifier(schema, "schema_version")),
        (version, needs_code),
    )


def _is_applied(connection: psycopg.Connection[Any], schema: str, number: int) -> bool:
    table = connection.execute(
        "select to_regclass(%s) is not null", (f"{schema}._yoyo_migration",)
    ).fetchone()
    if table is None or not table[0]:
        return False
    query = sql.SQL("select 1 from {} where migration_id like %s").format(
        sql.Identifier(schema, "_yoyo_migration")
    )
    return connection.execute(query, (f"{number:04d}-%",)).fetchone() is not None
