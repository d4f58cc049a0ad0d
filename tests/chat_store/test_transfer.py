"""Leaving with a tenant and coming with it: export, import into another database, export again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import psycopg
import pytest
from psycopg import sql

from chat_svc.core.membership import Change
from chat_svc.store.accounts import AccountRow
from chat_svc.store.bundle import ROLE, ChatStore
from chat_svc.store.commit import CommitStatus, EventKind
from chat_svc.store.erasure import Stage
from chatmesh.cli import CommandError
from chatmesh.cli.transfer import reading, writing
from chatmesh.cli.transfer.checking import BadFile
from chatmesh.runtime.postgres import Database, Lane
from chatmesh.v1.types_pb2 import AccountContent, Content, Event, ReactionContent, TextContent
from tests.chat_store.conftest import TEMPLATE, Server
from tests.chat_store.world import World, delete_body, edit_body

LINES = 3
"""A small batch, so that few lines make many steps."""


def quiet(*_: object) -> None:
    """Tells nobody how far it is."""


def exported(url: str, tenant: str) -> bytes:
    file = io.BytesIO()
    with psycopg.connect(url, autocommit=True) as store:
        reading.export(store, tenant, file, resume=False, tell=quiet)
    return file.getvalue()


def imported(url: str, tenant: str, content: bytes) -> bool:
    file = io.BytesIO(content)
    with psycopg.connect(url, autocommit=True) as store:
        return writing.write(store, tenant, file, writing.check(file, quiet), quiet)


def without_header(content: bytes) -> bytes:
    return content.partition(b"\n")[2]


def lines_of(content: bytes, kind: str) -> list[dict[str, Any]]:
    return [line for raw in content.splitlines() if (line := json.loads(raw))["type"] == kind]


@contextmanager
def database(server: Server, name: str) -> Iterator[str]:
    """An empty one with the schema."""
    with psycopg.connect(server.owner_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(TEMPLATE)
            )
        )
    yield server.url_of(name)


async def people(world: World, tenant: str) -> list[AccountRow]:
    """A tenant with something of everything."""
    ann, ben, cid, dan, eve = await world.users(5, tenant)
    direct = await world.direct(ann, ben)
    for n in range(7):
        await world.commit(world.row((ann, ben)[n % 2], direct, f"{n} ünï\n\t🙂"))
    await world.commit(
        world.row(ann, direct, kind=EventKind.EDIT, flags=0, target_seq=1, body=edit_body(1, "new"))
    )
    await world.commit(
        world.row(ben, direct, kind=EventKind.DELETE, flags=0, target_seq=2, body=delete_body(2))
    )
    reaction = Content(reaction=ReactionContent(target_conversation_seq=3, reaction="👍"))
    await world.commit(
        world.row(
            ben, direct, kind=EventKind.REACTION, flags=0, target_seq=3,
            body=Event(content=reaction).SerializeToString(),
        )
    )  # fmt: skip
    group = await world.group(ann, ben, cid, dan, history=2)
    rich = Event(
        content=Content(text=TextContent(body="to ben")),
        metadata={"b": "2", "a": "1"},
        mention_user_ids=[world.name_of(ben)],
        reply_to_conversation_seq=1,
        trace_context=b"t" * 25,
    )
    await world.commit(
        world.row(cid, group, body=rich.SerializeToString(), mentions=[ben.id]),
        world.row(dan, group, "of one who is erased"),
    )
    await world.change(cid, group, Change.LEFT, cid)
    await world.commit(world.row(ann, group, "after cid"), world.row(ben, direct, "late"))
    await world.change(ann, group, Change.ADDED, eve)
    await world.commit(world.row(eve, group, "here"))
    await world.commit(world.row(dan, await world.direct(dan, eve), "hello eve"))
    await settle(world, tenant, (ann, ben, cid, dan, eve), direct)
    return [ann, ben, cid, dan, eve]


async def settle(world: World, tenant: str, who: tuple[AccountRow, ...], direct: int) -> None:
    """What is no event: marks, own state, blocks, standing, an erased user."""
    ann, ben, cid, dan, eve = who
    await world.ask(
        "UPDATE chat.member SET read_message_no = 2, read_conversation_seq = 2, pinned = true,"
        " draft = 'half', delivered_conversation_seq = 4 WHERE conversation = %s AND account = %s",
        direct, ben.id,
    )  # fmt: skip
    hidden = Event(
        content=Content(
            account=AccountContent(
                subject="hidden", state="hidden", conversation_id=direct, conversation_seq=4
            )
        )
    )
    self_of = await world.direct(ann, ann)
    await world.commit(
        world.row(ann, self_of, kind=EventKind.ACCOUNT, flags=0, body=hidden.SerializeToString())
    )
    await world.ask("INSERT INTO chat.hidden VALUES (%s, %s, 4)", ann.id, direct)
    await world.ask("INSERT INTO chat.block VALUES (%s, %s, 5)", ben.id, eve.id)
    await world.ask("UPDATE chat.timeline_head SET blocks = 1 WHERE account = %s", ben.id)
    await world.ask("INSERT INTO chat.presence_wish VALUES (%s, 4, 'at lunch', 0, 7)", ann.id)
    await world.store.users.change(
        tenant, world.name_of(cid), disabled=True, kind=None, revoke=False, actor="", detail=""
    )
    at = await world.store.erasure.begin(tenant, world.name_of(dan))
    assert at is not None
    at = await world.store.erasure.move(at, Stage.RELATIONS)
    while at.stage is not Stage.ELSEWHERE:
        at, _ = await world.store.erasure.step(at)
    await world.store.erasure.finish(at, "")


async def test_what_was_exported_is_what_was_imported(server: Server, world: World) -> None:
    ann, ben, cid, dan, eve = await people(world, "acme")
    await people(world, "other")
    before = exported(world.url, "acme")
    assert world.name_of(dan).encode() not in before, "the erased one's name"
    with database(server, "transfer_to") as url:
        assert imported(url, "acme", before) is True
        assert exported(url, "acme") == before
        assert imported(url, "acme", before) is False, "once more changes nothing"
        assert exported(url, "acme") == before
        with pytest.raises(CommandError, match="another file"):
            imported(url, "acme", exported(world.url, "other"))
        async with (
            Database(url, role_name=ROLE, max_size=4) as pool,
            Lane(url, role_name=ROLE, name="moved") as lane,
        ):
            moved = World(url, ChatStore.on(pool, lane))
            moved._ids = world._ids
            await moved.assert_contiguous()
            found = await moved.store.accounts.resolve_accounts(
                "acme", [world.name_of(one) for one in (ann, ben, cid, eve)], False, moved.new_ids
            )
            assert [found[world.name_of(one)].disabled for one in (ann, ben, cid, eve)] == [
                False, False, True, False,
            ]  # fmt: skip
            for one in (ann, ben, cid, eve):
                await assert_reads_the_same(world, one, moved, found[world.name_of(one)])
            await assert_lives_on(moved, *(found[world.name_of(one)] for one in (ann, ben, eve)))
            assert await moved.ask("SELECT 1 FROM chat.outbox") != []


async def assert_reads_the_same(
    world: World, old: AccountRow, moved: World, new: AccountRow
) -> None:
    """A device that begins at the oldest entry gets each conversation in its order."""
    was, now = await said(world, old), await said(moved, new)
    assert was
    # history for all comes as entries, too, where it did not before: never less
    for conversation, entries in was.items():
        assert [one for one in now[conversation] if one in entries] == entries
    times = [
        row[0]
        for row in await moved.ask(
            "SELECT e.created_at_ms FROM chat.timeline t JOIN chat.event e"
            " USING (conversation, conversation_seq) WHERE t.account = %s ORDER BY t.timeline_seq",
            new.id,
        )
    ]
    assert times == sorted(times)


async def said(world: World, account: AccountRow) -> dict[int, list[tuple[int, int, bytes]]]:
    read = await world.store.timeline.read_entries(account.id, 0, 1_000, 1 << 20)
    by_conversation: dict[int, list[tuple[int, int, bytes]]] = {}
    for row in read.rows:
        event = Event.FromString(row.body)
        event.ClearField("trace_context")
        same = event.SerializeToString(deterministic=True)
        by_conversation.setdefault(row.conversation_id, []).append(
            (row.conversation_seq, row.message_id, same)
        )
    return by_conversation


async def assert_lives_on(moved: World, ann: AccountRow, ben: AccountRow, eve: AccountRow) -> None:
    """Numbers go on where they were; who was blocked still is, and the erased one gets nothing."""
    direct = await moved.direct(ann, ben)
    ((last,),) = await moved.ask(
        "SELECT last_conversation_seq FROM chat.conversation WHERE id = %s", direct
    )
    await moved.ask("UPDATE chat.timeline_head SET devices = 1 WHERE account = %s", ben.id)
    (outcome,) = await moved.commit(moved.row(ann, direct, "on we go"))
    assert (outcome.status, outcome.conversation_seq) == (CommitStatus.ACCEPTED, last + 1)
    (refused,) = await moved.commit(moved.row(eve, await moved.direct(ben, eve)))
    assert refused.status is CommitStatus.NOT_REACHABLE
    ((gone,),) = await moved.ask(
        "SELECT c.id FROM chat.conversation c JOIN chat.member m ON m.conversation = c.id"
        " WHERE c.kind = 1 AND m.account = %s AND NOT EXISTS (SELECT FROM chat.account a"
        "   WHERE a.id IN (c.direct_low, c.direct_high) AND a.id <> m.account)",
        eve.id,
    )
    (refused,) = await moved.commit(moved.row(eve, gone))
    assert refused.status is CommitStatus.NOT_REACHABLE
    await moved.assert_contiguous()


async def test_into_another_tenant_beside_the_first(world: World) -> None:
    await people(world, "here")
    before = exported(world.url, "here")
    assert imported(world.url, "there", before) is True
    after = exported(world.url, "there")
    old = [line["conversation_id"] for line in lines_of(before, "conversation")]
    new = [line["conversation_id"] for line in lines_of(after, "conversation")]
    assert not set(old) & set(new), "ids that are taken are replaced, also within events"
    text = without_header(after).decode()
    for one, other in zip(sorted(new, key=int), sorted(old, key=int), strict=True):
        text = text.replace(f'conversation_id":"{one}"', f'conversation_id":"{other}"')
    assert sorted(text.splitlines()) == sorted(without_header(before).decode().splitlines())
    assert exported(world.url, "here") == before, "the first is as it was"
    with pytest.raises(CommandError, match="is not empty"):
        imported(world.url, "here", before)


class Died(Exception):
    """A run that is over."""


async def test_a_run_that_died_anywhere_goes_on_where_it_was(
    server: Server, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await people(world, "steps")
    before = exported(world.url, "steps")
    for name, count in (("LINES", LINES), ("ENTRIES", 4), ("ACCOUNTS", 1)):
        monkeypatch.setattr(writing, f"{name}_AT_ONCE", count)
    with database(server, "transfer_steps") as url:
        file = io.BytesIO(before)
        checked = writing.check(file, quiet)
        deaths, steps = 0, 0

        def die(what: str, done: int, total: int) -> None:
            nonlocal steps
            steps += 1
            raise Died  # after each step's commit, before the next

        while True:
            with psycopg.connect(url, autocommit=True) as store:
                try:
                    fresh = writing.write(store, "steps", file, checked, die)
                except Died:
                    deaths += 1
                    closed = store.execute(
                        "SELECT (SELECT i.stage FROM chat.import i) < 3, coalesce(bool_and("
                        "h.disabled), true) FROM chat.timeline_head h"
                    ).fetchone()
                    assert closed is not None
                    assert closed[1] or not closed[0], "nobody gets in before all is there"
                    continue
            break
        assert fresh is False
        assert deaths == steps > 30
        assert exported(url, "steps") == before
        with psycopg.connect(url) as store:
            left = store.execute(
                "SELECT (SELECT count(*) FROM chat.import_account),"
                " (SELECT count(*) FROM chat.import_conversation)"
            ).fetchone()
            assert left == (0, 0)


async def test_two_at_once_do_not_meet(server: Server, world: World) -> None:
    await people(world, "twice")
    content = exported(world.url, "twice")
    with database(server, "transfer_twice") as url, psycopg.connect(url, autocommit=True) as store:
        file = io.BytesIO(content)
        checked = writing.check(file, quiet)

        def overtaken(what: str, done: int, total: int) -> None:
            if what == "lines" and done < total:
                assert imported(url, "twice", content) is True

        with pytest.raises(psycopg.errors.ObjectInUse):
            writing.write(store, "twice", file, checked, overtaken)
        assert exported(url, "twice") == content


async def test_an_export_goes_on_where_it_was(world: World, tmp_path: Path) -> None:
    who = await people(world, "resumed")
    whole = exported(world.url, "resumed")
    direct = await world.direct(who[0], who[1])
    await world.commit(world.row(who[0], direct, "after the first run began"))
    newer = exported(world.url, "resumed")
    first = whole.index(b'{"type":"message"')
    path = tmp_path / "file"

    def resumed(cut: int) -> bytes:
        path.write_bytes(whole[:cut])
        with path.open("r+b") as file, psycopg.connect(world.url, autocommit=True) as store:
            reading.export(store, "resumed", file, resume=True, tell=quiet)
        return path.read_bytes()

    for cut in (first + 1 + len(whole[first:].split(b"\n")[0]), len(whole) - 40, len(whole)):
        assert resumed(cut) == whole, "no message beyond what the file's conversations say"
    assert resumed(whole.index(b"\n", first) - 9) == newer, "before its messages it begins anew"
    path.write_bytes(whole[:first].replace(b'"type":"user"', b'"type":"usher"', 1))
    with (
        path.open("r+b") as file,
        psycopg.connect(world.url, autocommit=True) as store,
        pytest.raises(CommandError, match="cannot go on with this file: line 2"),
    ):
        reading.export(store, "resumed", file, resume=True, tell=quiet)


def _check(content: bytes) -> None:
    file: BinaryIO = io.BytesIO(content)
    writing.check(file, quiet)


async def test_a_broken_file_is_refused_by_line(world: World) -> None:
    await people(world, "broken")
    good = exported(world.url, "broken")
    lines = good.splitlines(keepends=True)
    _check(good)
    for n in range(len(lines)):
        with pytest.raises(BadFile):
            _check(b"".join(lines[:n]))  # half a file
        with pytest.raises(BadFile):
            _check(b"".join([*lines[:n], *lines[n + 1 :]]))  # a line is lost
        with pytest.raises(BadFile, match=f"line {n + 2}:"):
            _check(b"".join([*lines[: n + 1], *lines[n:]]))  # a line comes twice
        with pytest.raises(BadFile, match=f"line {n + 1}:"):
            _check(b"".join([*lines[:n], b"\xff" + lines[n], *lines[n + 1 :]]))
    with pytest.raises(BadFile, match=f"line {len(lines)}: cut off"):
        _check(good[:-1])
