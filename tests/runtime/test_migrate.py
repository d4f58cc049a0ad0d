"""Migrations on a real server: stages, lock, rights, and the check of versions."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from chatmesh.runtime import migrate
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.postgres import Lane
from tests.runtime import stores

FILES = {
    "pre/0001-tables.sql": "create table demo.thing (id bigint primary key, n int);\n"
    "create sequence demo.numbers;",
    "pre/0002-function.sql": "create function demo.twice(x int) returns int language plpgsql\n"
    "as $$ begin\n  return x * 2; -- a ; inside\nend $$;",
    "pre/0004-index.sql": "-- transactional: false\n"
    "create index concurrently thing_n on demo.thing (n);",
    "post/0003-drop.sql": "-- needs-code: 2\nalter table demo.thing add column gone int;\n"
    "alter table demo.thing drop column gone;",
}
PACKAGE, SCHEMA, ROLE = "demo_svc", "demo", "chatmesh_demo"


class Project:
    """A service package on sys.path whose migrations a test writes."""

    def __init__(self, root: Path) -> None:
        self.migrations = root / PACKAGE / "store" / "migrations"
        for folder in (root / PACKAGE, root / PACKAGE / "store"):
            folder.mkdir(parents=True)
            (folder / "__init__.py").touch()

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.migrations / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


@pytest.fixture
def project(tmp_path: Path, postgres: stores.Store) -> Iterator[Project]:
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    yield Project(tmp_path)
    sys.path.remove(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"drop schema if exists {SCHEMA} cascade")
        connection.execute(f"drop owned by {ROLE}")
        connection.execute(f"drop role {ROLE}")


async def require(postgres: stores.Store, needs: int) -> None:
    async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as connection:
        await connection.execute(f"set role {ROLE}")
        await migrate.require_schema(connection, PACKAGE, needs)


async def test_stages_versions_and_rights(postgres: stores.Store, project: Project) -> None:
    project.write(FILES)
    assert migrate.code_version(PACKAGE) == 4
    assert migrate.apply(postgres.url, PACKAGE, "pre") == [
        "0001-tables",
        "0002-function",
        "0004-index",
    ]
    assert migrate.apply(postgres.url, PACKAGE, "pre") == []
    await require(postgres, 4)
    await require(postgres, 1)
    with pytest.raises(StoreRefused, match="chatmesh migrate"):
        await require(postgres, 5)
    assert migrate.apply(postgres.url, PACKAGE, "post") == ["0003-drop"]
    await require(postgres, 2)
    with pytest.raises(StoreRefused, match="newer release"):
        await require(postgres, 1)

    async with Lane(postgres.url, role_name=ROLE, name="x") as lane:
        await lane.execute("insert into demo.thing values (1, demo.twice(4))")
        assert await lane.execute("select n, nextval('demo.numbers') from demo.thing") == [(8, 1)]
        for forbidden in (
            "create table demo.mine (id int)",
            "drop table demo.thing",
            "truncate demo.thing",
            "update demo.schema_version set version = 9",
            "select * from demo._yoyo_migration",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await lane.execute(forbidden)


async def test_a_fresh_database_is_too_old(postgres: stores.Store, project: Project) -> None:
    migrate.apply(postgres.url, PACKAGE, "pre")  # no files yet
    await require(postgres, 0)
    with pytest.raises(StoreRefused, match="version 0"):
        await require(postgres, 1)


def test_a_failed_migration_changes_nothing(postgres: stores.Store, project: Project) -> None:
    project.write({"pre/0001-bad.sql": "create table demo.half (id int);\nselect 1/0;"})
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate.apply(postgres.url, PACKAGE, "pre")
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("select to_regclass('demo.half')").fetchone() == (None,)
    project.write({"pre/0001-bad.sql": "create table demo.half (id int);"})
    assert migrate.apply(postgres.url, PACKAGE, "pre") == ["0001-bad"]


def test_several_migrators_at_once(postgres: stores.Store, project: Project) -> None:
    project.write(FILES)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: migrate.apply(postgres.url, PACKAGE, "pre"), range(4)))
    assert sorted(map(len, done)) == [0, 0, 0, 3]


def test_a_lock_left_by_a_killed_migrator(postgres: stores.Store, project: Project) -> None:
    project.write({"pre/0001-a.sql": "create table demo.a (id int);"})
    migrate.apply(postgres.url, PACKAGE, "pre")
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("insert into demo.yoyo_lock (locked, ctime, pid) values (1, now(), 1)")
    project.write({"pre/0002-b.sql": "create table demo.b (id int);"})
    assert migrate.apply(postgres.url, PACKAGE, "pre") == ["0002-b"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"pre/first.sql": ""}, "not named"),
        ({"pre/1-x.sql": ""}, "not named"),
        ({"pre/0001-a.sql": "", "post/0001-b.sql": ""}, "share a number"),
    ],
)
def test_bad_names(
    postgres: stores.Store, project: Project, files: dict[str, str], said: str
) -> None:
    migrate.apply(postgres.url, PACKAGE, "pre")
    project.write(files)
    with pytest.raises(ValueError, match=said):
        migrate.apply(postgres.url, PACKAGE, "pre")


@pytest.mark.parametrize("name", ["chat", "Chat_svc", "chat-svc", "x; drop_svc", ""])
def test_packages_are_named_as_services(name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        migrate.schema_of(name)


def test_names_of_schema_and_role() -> None:
    assert (migrate.schema_of("chat_svc"), migrate.role_of("chat_svc")) == ("chat", "chatmesh_chat")
    assert asyncio.iscoroutinefunction(migrate.require_schema)
