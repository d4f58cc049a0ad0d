"""The connection of an export or import: whose it is, and what must be there."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from chatmesh.cli import CommandError

NEEDS_VERSION: Final = 50
"""The version of schema `chat` that brought the functions called here."""


@contextmanager
def connection(data: pathlib.Path | None, *, writes: bool) -> Iterator[psycopg.Connection[Any]]:
    """PostgreSQL of CHATMESH_POSTGRES_URL, else of the running mesh, in autocommit.

    Raises CommandError: it cannot be reached, refuses, may lose commits or has an older schema.
    """
    url = os.environ.get("CHATMESH_POSTGRES_URL", "")
    if not url:
        from chatmesh.embedded import running

        url = running.find(data).owner_url()
    from chatmesh.runtime.pgsession import connection_string, reason

    try:
        wanted = "read-write" if writes else "any"
        text = connection_string(url, "chatmesh transfer", target_session_attrs=wanted)
    except ValueError as error:
        raise CommandError(f"CHATMESH_POSTGRES_URL: {error}") from None
    try:
        with psycopg.connect(text, autocommit=True) as made:
            _demand(made, writes)
            yield made
    except psycopg.errors.InsufficientPrivilege as error:
        raise CommandError(
            f"PostgreSQL: {reason(error)}. Log in as the schema's owner or as a member of "
            "chatmesh_chat"
        ) from None
    except psycopg.Error as error:
        raise CommandError(f"PostgreSQL: {reason(error)}") from None


def _demand(made: psycopg.Connection[Any], writes: bool) -> None:
    there = made.execute("SELECT to_regclass('chat.schema_version') IS NOT NULL").fetchone()
    found = there and there[0] and made.execute("SELECT version FROM chat.schema_version")
    row = found.fetchone() if found else None
    if not row or row[0] < NEEDS_VERSION:
        raise CommandError("the schema chat is older than this release: run `chatmesh migrate`")
    if writes:
        lost = made.execute(
            "SELECT name FROM pg_settings WHERE setting = 'off' AND name IN "
            "('fsync', 'full_page_writes', 'synchronous_commit')"
        ).fetchone()
        if lost:
            raise CommandError(f"PostgreSQL has {lost[0]} = off and may lose what is imported")
