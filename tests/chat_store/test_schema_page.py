"""docs/schema.md: its queries run, and what it names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from chatmesh.runtime import migrate
from tests.chat_store.conftest import Server
from tests.chat_store.world import World

PAGE = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
HOLES = "HAVING max("
NAMES = re.compile(r"`([a-z_.]+)`")


def queries() -> list[str]:
    blocks = re.findall(r"^```sql\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return [query.strip() for block in blocks for query in block.split(";") if query.strip()]


def named() -> Iterator[tuple[str, str]]:
    """(table, column) as the page names them: under a heading, or in a row beginning with a table.

    Under a heading of two tables a column must be in one of them.
    """
    heading: list[str] = []
    for line in PAGE.splitlines():
        if line.startswith("#"):
            heading = re.findall(r"(?:chat|push|sequencer)\.[a-z_]+", line)
        if not line.startswith("| `"):
            continue
        first, rest = line.split("|")[1:3]
        if heading:
            tables, cells = heading, NAMES.findall(first)
        else:
            tables, cells = NAMES.findall(first), NAMES.findall(rest)
        for column in cells:
            if column not in ("push", "sequencer"):
                yield " ".join(tables), column


@pytest.fixture(scope="module")
def everything(server: Server) -> str:
    """A database with all three schemas."""
    with psycopg.connect(server.owner_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE schema_page TEMPLATE chatmesh_template"))
    url = server.url_of("schema_page")
    for package in ("push_svc", "sequencer_svc"):
        migrate.apply(url, package, "pre")
    return url


def test_the_queries_run(everything: str) -> None:
    found = queries()
    assert len(found) > 8
    with psycopg.connect(everything) as connection:
        for query in found:
            assert connection.execute(query.encode()).description is not None


async def test_they_say_what_they_are_said_to(world: World) -> None:
    one, two = await world.users(2)
    names = world.name_of(one), world.name_of(two)
    conversation = await world.direct(one, two)
    await world.commit(world.row(one, conversation, "hello"), world.row(two, conversation, "hi"))
    group = await world.group(one, two)
    await world.commit(world.row(one, group, "all of you"))
    with psycopg.connect(world.url) as connection:

        def rows(begin: str, **replaced: str) -> list[tuple[object, ...]]:
            (query,) = [query for query in queries() if query.startswith(begin)]
            for old, new in replaced.items():
                query = query.replace(f"'{old}'", f"'{new}'")
            return connection.execute(query.encode()).fetchall()

        assert rows("SELECT t.name")[0] == ("default", 2, 4, 3)
        said = rows("SELECT to_timestamp", alice=names[0], bob=names[1])
        assert [row[1:] for row in said] == [(names[0], "hello"), (names[1], "hi")]
        assert rows("SELECT a.external_id, m.role") == [(names[0], 3, 1), (names[1], 1, 1)]
        assert [row[1] for row in rows("SELECT date_trunc")] == [3]
        for query in queries():
            if HOLES in query:
                assert connection.execute(query.encode()).fetchall() == []


def test_what_the_page_names_is_there(everything: str) -> None:
    with psycopg.connect(everything) as connection:
        there = set(
            connection.execute(
                "SELECT table_schema || '.' || table_name, column_name FROM"
                " information_schema.columns WHERE table_schema IN ('chat', 'push', 'sequencer')"
            ).fetchall()
        )
    pairs = list(named())
    assert len(pairs) > 150
    gone = [
        (tables, column)
        for tables, column in pairs
        if not any((table, column) in there for table in tables.split())
    ]
    assert gone == []
    pages = {table for tables, _ in pairs for table in tables.split()}
    private = re.compile(r"yoyo|\.(timeline|idempotency_key)_\d+$|\.schema_version$")
    tables = {table for table, _ in there if not private.search(table)}
    assert pages - {"chat.schema_version"} <= tables
