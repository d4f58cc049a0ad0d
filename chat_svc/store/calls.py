"""Statements on the pool: each in a transaction of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from chatmesh.runtime.postgres import Database

Row = tuple[Any, ...]
Params = Sequence[Any] | Mapping[str, Any]


async def rows(database: Database, query: LiteralString, params: Params = ()) -> list[Row]:
    """All rows of one statement; [] when it gives none."""
    async with database.connection() as connection:
        cursor = await connection.execute(query, params)
        return await cursor.fetchall() if cursor.description else []


async def row(database: Database, query: LiteralString, params: Params = ()) -> Row | None:
    """The first row."""
    found = await rows(database, query, params)
    return found[0] if found else None


async def change(database: Database, query: LiteralString, params: Params = ()) -> int:
    """How many rows one statement changed."""
    async with database.connection() as connection:
        cursor = await connection.execute(query, params)
        return cursor.rowcount
