"""`chatmesh tail --as bob`: what a user's device receives, as it comes."""

from __future__ import annotations

import enum
import json
import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatmesh.cli import DataOption, JsonOption, progress
from chatmesh.cli.speaking import AsOption, CaOption, Speaker, TargetOption, run, speaker

if TYPE_CHECKING:
    from chatmesh.client import Client


class Start(enum.StrEnum):
    """Where a device that has not begun begins."""

    head = "head"
    oldest = "oldest"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(tail)


def tail(
    user: AsOption = "",
    device: Annotated[
        str, typer.Option(help="Device id; the newest session of a device replaces the others.")
    ] = "tail",
    start: Annotated[
        Start, typer.Option("--from", help="Where to begin, without a --store that knows.")
    ] = Start.head,
    count: Annotated[
        int, typer.Option("--count", "-n", min=0, help="End after so many; 0 = never.")
    ] = 0,
    store: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE",
            help="Remember the position here: a later run goes on after the last line printed.",
            show_default=False,
        ),
    ] = None,
    data: DataOption = None,
    target: TargetOption = "",
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print everything said in a user's conversations, in order, each once.

    Reconnects by itself. Control characters in messages are shown, not obeyed. With --json each
    line is a document with the positions.

    \b
    Examples:
      chatmesh tail --as bob
      chatmesh tail --as bob --from oldest --count 10 --json
      chatmesh tail --as bob --store ~/.bob.db | while read line; do ...; done
    """
    who = speaker(user, target, data, ca)
    options: dict[str, Any] = {"device_id": device, "start": start.value}
    run(_tail(who, options, store, count, as_json))


async def _tail(
    who: Speaker, options: dict[str, Any], store: pathlib.Path | None, count: int, as_json: bool
) -> None:
    from chatmesh.client import Client, SqliteStore

    client = Client(
        who.target,
        token=who.token,
        device_name="chatmesh tail",
        tls=who.tls,
        allow_plaintext=who.allow_plaintext,
        store=SqliteStore(store) if store else None,
        ack="manual",
        **options,
    )
    async with client:
        progress(f"{client.user_id} listens as device {client.device_id}; Ctrl-C ends")
        await _print_entries(client, count, as_json)


async def _print_entries(client: Client, count: int, as_json: bool) -> None:
    from chatmesh.cli.telling import document, line

    printed = 0
    async for entry in client.entries():
        if as_json:
            values = document(entry.event, timeline_seq=entry.timeline_seq)
            typer.echo(json.dumps(values, ensure_ascii=False))
        else:
            typer.echo(line(entry.event))
        entry.ack()  # printed: echo flushes
        printed += 1
        if count and printed >= count:
            return
