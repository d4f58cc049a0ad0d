"""`chatmesh send --as alice bob TEXT`: messages from pipes and scripts."""

from __future__ import annotations

import io
import json
import queue
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import CommandError, DataOption, JsonOption, progress
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
    from chatmesh.client import Message, Sent

BATCH_LINES = 100
MAX_WAITING_LINES = 1_000


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(send)


def send(
    to: Annotated[str, typer.Argument(metavar="TO", help="A user, or `#ID` for a conversation.")],
    text: Annotated[
        str, typer.Argument(help="What to say; `-` sends each line of standard input.")
    ],
    user: AsOption = "",
    silent: Annotated[bool, typer.Option("--silent", help="Notify nobody.")] = False,
    traced: Annotated[
        bool, typer.Option("--trace", help="Record its way, whatever the mesh samples.")
    ] = False,
    data: DataOption = None,
    target: TargetOption = "",
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a message, or every line of standard input; return when all are durable.

    Prints one line per message: its id. A refused line is told on stderr, the others still go;
    the exit code is then 1. Empty lines are skipped.

    \b
    Examples:
      chatmesh send --as alice bob "hello Bob"
      make 2>&1 | chatmesh send --as builder alice -
      chatmesh trace $(chatmesh send --as alice bob hi --trace)
    """
    if not text.rstrip("\r\n"):
        raise CommandError("there is nothing to send: the text is empty", 2)
    if text == "-" and sys.stdin is None:  # closed by the caller, as by `<&-`
        raise CommandError("standard input is closed: give the text, or a pipe of lines", 2)
    to_user, conversation_id = destination(to)
    who = speaker(user, target, data, ca)
    if text == "-" and isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no UTF-8 is refused by the line
    lines = Lines(sys.stdin if text == "-" else [text])
    wishes = _Wishes(silent, traced, as_json)
    run(_send(who, to_user or None, conversation_id or None, lines, wishes))


@dataclass(frozen=True, slots=True)
class _Wishes:
    silent: bool
    traced: bool
    as_json: bool


class Lines:
    """Batches of lines: all that is there already, so that a slow pipe's line goes at once and a
    fast one's go together. A thread reads, because a pipe cannot be waited for otherwise."""

    def __init__(self, stream: Iterable[str]) -> None:
        self._waiting: queue.Queue[str | None] = queue.Queue(MAX_WAITING_LINES)
        self._ended = False
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: Iterable[str]) -> None:
        try:
            for line in stream:
                if line := line.rstrip("\r\n"):
                    self._waiting.put(line)
        finally:
            self._waiting.put(None)

    def take(self) -> list[str]:
        """At least one line, waiting for it; empty at the end."""
        batch: list[str] = []
        while not self._ended and len(batch) < BATCH_LINES:
            try:
                line = self._waiting.get(block=not batch)
            except queue.Empty:
                break
            if line is None:
                self._ended = True
            else:
                batch.append(line)
        return batch


async def _send(
    who: Speaker, user: str | None, conversation_id: int | None, lines: Lines, wishes: _Wishes
) -> None:
    import asyncio

    from chatmesh.client import ChatmeshError, UnaryClient

    answered = refused = 0
    async with UnaryClient(
        who.target, token=who.token, tls=who.tls, allow_plaintext=who.allow_plaintext
    ) as client:
        while batch := await asyncio.to_thread(lines.take):
            clean = [line for line in batch if _is_utf8(line)]
            refused += len(batch) - len(clean)
            messages = [_message(line, user, conversation_id, wishes) for line in clean]
            try:
                outcomes = await client.send_many(messages)
            except ChatmeshError as error:
                raise CommandError(f"{error}\n{_unanswered(answered, len(clean))}") from None
            for outcome in outcomes:
                refused += _tell(outcome, wishes.as_json)
            answered += len(outcomes)
    if refused:
        raise CommandError(f"{refused} message{'s were' if refused > 1 else ' was'} not sent")


def _unanswered(before: int, lines: int) -> str:
    what = "of the next it is" if lines == 1 else f"of the next {lines} it is"
    was = "message was" if before == 1 else "messages were"
    return f"{before} {was} answered, {what} unknown: see `chatmesh history`, then send the rest"


def _is_utf8(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        progress("chatmesh: not sent: a line is not UTF-8")
        return False
    return True


def _message(line: str, user: str | None, conversation_id: int | None, wishes: _Wishes) -> Message:
    from chatmesh.client import Message, Text
    from chatmesh.runtime import trace

    return Message(
        Text(line),
        to_user=user,
        conversation_id=conversation_id,
        silent=wishes.silent,
        traceparent=trace.to_traceparent(trace.new_root(sampled=True)) if wishes.traced else "",
    )


def _tell(outcome: Sent | Exception, as_json: bool) -> int:
    """Prints one outcome; 1 when it was a refusal."""
    if isinstance(outcome, Exception):
        progress(f"chatmesh: not sent: {outcome}")
        return 1
    if as_json:
        values = {
            "message_id": str(outcome.message_id),
            "conversation_id": str(outcome.conversation_id),
            "conversation_seq": outcome.conversation_seq,
            "message_no": outcome.message_no,
            "timeline_seq": outcome.timeline_seq,
            "created_at_ms": outcome.created_at_ms,
        }
        typer.echo(json.dumps(values))
    else:
        typer.echo(outcome.message_id)
    return 0
