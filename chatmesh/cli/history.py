"""`chatmesh history --as bob alice`: what was said, as it reads now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import DataOption, JsonOption
from chatmesh.cli.speaking import (
    LARGEST_ID,
    AsOption,
    CaOption,
    Speaker,
    TargetOption,
    destination,
    run,
    speaker,
)

if TYPE_CHECKING:
    from chatmesh.client import UnaryClient

PAGE_MESSAGES = 200


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(history)


def history(
    peer: Annotated[
        str,
        typer.Argument(
            metavar="[PEER]",
            help="A user, or `#ID` for a conversation; left out: the list of conversations.",
        ),
    ] = "",
    user: AsOption = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    before: Annotated[
        int,
        typer.Option(
            min=0, max=LARGEST_ID, help="Only messages before this conversation_seq; 0 = newest."
        ),
    ] = 0,
    data: DataOption = None,
    target: TargetOption = "",
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a conversation's messages, oldest first, edits and deletions applied.

    \b
    Examples:
      chatmesh history --as bob                       # which conversations there are
      chatmesh history --as bob alice --limit 10
      chatmesh history --as bob '#118874788201496576' --json
    """
    who = speaker(user, target, data, ca)
    run(_history(who, peer, limit, before, as_json))


async def _history(who: Speaker, peer: str, limit: int, before: int, as_json: bool) -> None:
    from chatmesh.client import UnaryClient

    async with UnaryClient(
        who.target, token=who.token, tls=who.tls, allow_plaintext=who.allow_plaintext
    ) as client:
        if peer:
            await _messages(client, peer, limit, before, as_json)
        else:
            await _conversations(client, limit, as_json)


async def _messages(client: UnaryClient, peer: str, limit: int, before: int, as_json: bool) -> None:
    from chatmesh.cli.telling import document, line
    from chatmesh.client import Event

    messages: list[Event] = []
    conversation_id = await _conversation(client, peer)
    while len(messages) < limit:
        wanted = min(PAGE_MESSAGES, limit - len(messages))
        page = await client.history(conversation_id, before=before, limit=wanted)
        messages = [*page.messages, *messages]
        if not page.more or not page.messages:
            break
        before = page.messages[0].conversation_seq
    for event in messages:
        typer.echo(json.dumps(document(event), ensure_ascii=False) if as_json else line(event))


async def _conversation(client: UnaryClient, peer: str) -> int:
    user, conversation_id = destination(peer)
    return conversation_id or (await client.conversation(with_user=user)).conversation_id


async def _conversations(client: UnaryClient, limit: int, as_json: bool) -> None:
    from chatmesh.cli.plain import local_time, shown

    page = await client.conversations(limit=min(limit, PAGE_MESSAGES))
    for one in page.conversations:
        name = one.title or one.peer
        if as_json:
            values = {
                "conversation_id": str(one.conversation_id),
                "kind": one.kind.name.lower(),
                "name": name,
                "unread": one.state.unread,
                "last_conversation_seq": one.last_conversation_seq,
                "active_at_ms": one.active_at_ms,
            }
            typer.echo(json.dumps(values, ensure_ascii=False))
        else:
            unread = f", {one.state.unread} unread" if one.state.unread else ""
            typer.echo(
                f"{local_time(one.active_at_ms)} {one.kind.name.lower():6} {shown(name)} "
                f"(#{one.conversation_id}{unread})"
            )
