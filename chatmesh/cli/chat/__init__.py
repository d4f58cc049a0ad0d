"""`chatmesh chat --as alice bob`: chatting in the terminal.

Modules: `model` (what is shown, pure) ← `courier` (the SDK's streams and calls) ← `app` (Textual:
`drawing` makes texts of the model, `widgets` and `screens` are parts of the screen); `memory` keeps
reactions. They are imported inside the command, since Textual is an extra.
"""

from __future__ import annotations

import asyncio
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import CommandError, DataOption
from chatmesh.cli.speaking import AsOption, CaOption, Speaker, TargetOption, destination, speaker

if TYPE_CHECKING:
    from chatmesh.cli.chat.app import ChatApp
    from chatmesh.client import TokenProvider


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(chat)


def chat(
    to: Annotated[
        str,
        typer.Argument(
            metavar="[TO]",
            help="Open the conversation with this user, or `#ID`; left out: choose one there.",
        ),
    ] = "",
    user: AsOption = "",
    store: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE",
            help="This device's memory: unsent messages, how far it has received, reactions. "
            "Default: one file a user in the data folder.",
            show_default=False,
        ),
    ] = None,
    data: DataOption = None,
    target: TargetOption = "",
    ca: CaOption = None,
) -> None:
    """Chat in the terminal: conversations, presence, typing, marks, replies, reactions, search.

    What you write while there is no connection waits and goes by itself, even after a restart.
    Two of them for the same user are two devices: give the second its own --store. F1 shows all
    keys. Control characters in messages are shown, not obeyed. Needs the extra `tui`.

    \b
    Examples:
      chatmesh chat --as alice bob
      chatmesh chat --as alice                        # choose a conversation there
      chatmesh chat --as alice bob --store /tmp/second-device.db
      CHATMESH_TOKEN_FILE=token chatmesh chat --target chat.example:7030 --ca ca.pem bob
    """
    to_user, conversation_id = destination(to) if to else ("", 0)
    who = speaker(user, target, data, ca)
    file = store or _own_file(user, target, who.token, data)

    async def fresh_token() -> str:
        """The screen may stay open for longer than a token lasts."""
        return (await asyncio.to_thread(speaker, user, target, data, ca)).token

    made = prepare(who, fresh_token, file, me=user, user=to_user, conversation_id=conversation_id)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandError("needs a terminal; for scripts there are `send`, `tail`, `history`", 2)
    made.run()
    if made.return_code:
        raise typer.Exit(made.return_code)


def _own_file(user: str, target: str, token: str, data: pathlib.Path | None) -> pathlib.Path:
    """Beside the mesh's data; with a server of yours, below the default folder."""
    import hashlib

    from chatmesh.client._tokens import subject
    from chatmesh.embedded.layout import default_folder

    name = f"{target} {user or subject(token)}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return (data or default_folder()).expanduser() / "chat" / f"{digest}.sqlite"


def prepare(
    who: Speaker,
    token: TokenProvider,
    file: pathlib.Path,
    *,
    me: str = "",
    user: str = "",
    conversation_id: int = 0,
) -> ChatApp:
    """The application, not running yet. Raises CommandError when Textual is not installed."""
    try:
        from chatmesh.cli.chat.app import ChatApp
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise CommandError("textual is missing: pip install 'chatmesh[tui]'") from None
    from chatmesh.cli.chat.memory import Reactions
    from chatmesh.client import Client, DeviceKind, SqliteStore

    client = Client(
        who.target,
        token=token,
        device_name="chatmesh chat",
        device_kind=DeviceKind.DESKTOP,
        tls=who.tls,
        allow_plaintext=who.allow_plaintext,
        store=SqliteStore(file),
        connect_timeout_seconds=None,
        close_timeout_seconds=1,
    )
    memory = Reactions(file.with_name(f"{file.name}.reactions"))
    return ChatApp(client, memory, me=me, user=user, conversation_id=conversation_id)
