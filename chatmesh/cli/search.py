"""`chatmesh search --as bob WORDS`: in the user's own conversations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import DataOption, JsonOption
from chatmesh.cli.speaking import (
    AsOption,
    CaOption,
    Speaker,
    TargetOption,
    destination,
    run,
    speaker,
)

if TYPE_CHECKING:
    from chatmesh.client import SearchHit, UnaryClient

PAGE_HITS = 100
START, STOP = "\ue000", "\ue001"
"""Around what was found, in a highlight."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(search)


def search(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="WORDS...",
            help='All of them; `"a phrase"`, `or` and `-without` are understood. '
            "Put -- before words that begin with a dash.",
        ),
    ],
    user: AsOption = "",
    peer: Annotated[
        str, typer.Option("--in", metavar="PEER", help="Only with this user, or in `#ID`.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 20,
    data: DataOption = None,
    target: TargetOption = "",
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print messages that hold words, newest first, with what was found [in brackets].

    A message is found a moment after it was sent: the index is filled behind the commit.

    \b
    Examples:
      chatmesh search --as bob lunch
      chatmesh search --as bob --in alice '"lunch at noon" -monday'
      chatmesh search --as bob lunch --json
    """
    who = speaker(user, target, data, ca)
    run(_search(who, " ".join(words), peer, limit, as_json))


async def _search(who: Speaker, query: str, peer: str, limit: int, as_json: bool) -> None:
    from chatmesh.client import UnaryClient

    async with UnaryClient(
        who.target, token=who.token, tls=who.tls, allow_plaintext=who.allow_plaintext
    ) as client:
        conversation_id = await _conversation(client, peer)
        page_token, left = "", limit
        while left > 0:
            page = await client.search(
                query,
                conversation_id=conversation_id,
                limit=min(PAGE_HITS, left),
                page_token=page_token,
            )
            for hit in page.hits:
                typer.echo(_document(hit) if as_json else _line(hit))
            left, page_token = left - len(page.hits), page.next_page_token
            if not page_token:
                break


async def _conversation(client: UnaryClient, peer: str) -> int:
    if not peer:
        return 0
    user, conversation_id = destination(peer)
    return conversation_id or (await client.conversation(with_user=user)).conversation_id


def _line(hit: SearchHit) -> str:
    from chatmesh.cli.plain import local_time, shown

    event = hit.message
    said = shown(hit.highlight.replace(START, "[").replace(STOP, "]"))
    return (
        f"{local_time(event.created_at_ms)} #{event.conversation_id} {shown(event.sender)}: {said}"
    )


def _document(hit: SearchHit) -> str:
    from chatmesh.cli.telling import document

    return json.dumps(document(hit.message, highlight=hit.highlight), ensure_ascii=False)
