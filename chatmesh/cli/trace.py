"""`chatmesh trace MESSAGE_ID`: where a message's time went, hop by hop."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sqlite3
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import CommandError, DataOption, JsonOption

if TYPE_CHECKING:
    from chatmesh.embedded.spans import Span

POLL_SECONDS = 0.2
_REACHED_A_DEVICE = {"sync.deliver", "chat.deliver", "push.state", "push.job", "push.send"}
SETTLE_SECONDS = 1.5
"""Processes of the embedded mesh export their spans every second: so long after the last new one
a trace is complete."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(trace)


def trace(
    message_id: Annotated[int, typer.Argument(help="As `chatmesh send` prints it.")],
    wait_seconds: Annotated[
        float, typer.Option(min=0, help="How long to wait for spans that are on their way.")
    ] = 6.0,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw one message's way through the mesh: receive, ids, commit, queue, lookup, deliver, ack.

    The embedded mesh keeps the newest spans in its data folder; also after it has stopped. Only
    sampled messages have any: `chatmesh up` samples all unless told otherwise, and
    `chatmesh send --trace` asks for it.

    \b
    Examples:
      chatmesh trace $(chatmesh send --as alice bob hi)
      chatmesh trace 118874788276994048 --json
    """
    from chatmesh.embedded.layout import DataFolder, default_folder

    folder = DataFolder(data or default_folder())
    try:
        spans = collect(folder.spans_file, message_id, wait_seconds)
    except (OSError, sqlite3.Error) as error:
        raise CommandError(
            f"cannot read {folder.spans_file}: {error}; name another data folder by --data or "
            "CHATMESH_DATA"
        ) from None
    if not spans:
        raise CommandError(
            f"no spans of message {message_id} in {folder.spans_file}: was it sent to this mesh, "
            "and sampled (chatmesh up --trace-ratio 1, or chatmesh send --trace)? Another mesh is "
            "named by --data"
        )
    show(spans, message_id, as_json)


def collect(file: pathlib.Path, message_id: int, wait_seconds: float) -> list[Span]:
    """The message's spans, waiting until no more come; blocking."""
    from chatmesh.embedded.spans import spans_of_trace, trace_of_message

    deadline = time.monotonic() + wait_seconds
    spans: list[Span] = []
    newest = time.monotonic()
    while True:
        trace_id = trace_of_message(file, message_id)
        found = spans_of_trace(file, trace_id) if trace_id else []
        now = time.monotonic()
        if len(found) != len(spans):
            spans, newest = found, now
        old = spans and time.time() - max(span.end_ns for span in spans) / 1e9 > wait_seconds
        if now >= deadline or old or (spans and now - newest >= SETTLE_SECONDS):
            return spans
        time.sleep(POLL_SECONDS)


def show(spans: list[Span], message_id: int, as_json: bool) -> None:
    """Print them."""
    from rich.console import Console

    from chatmesh.cli.waterfall import console_width, drawn, rows

    hops = rows(spans)
    if as_json:
        values = {
            "message_id": str(message_id),
            "trace_id": spans[0].trace_id,
            "processes": len({row.pid for row in hops}),
            "hops": [dataclasses.asdict(row) for row in hops],
            "note": why_it_ends({row.name for row in hops}),
        }
        typer.echo(json.dumps(values))
        return
    total = max(row.start_ms + row.duration_ms for row in hops)
    processes = len({row.pid for row in hops})
    title = f"message {message_id}: {len(hops)} hops in {processes} processes, {total:.1f} ms"
    Console(width=console_width()).print(drawn(hops, title))
    note = why_it_ends({row.name for row in hops})
    if note:
        typer.echo(note)


def why_it_ends(names: Collection[str]) -> str:
    """Why a trace has so few hops, by the names of those it has; empty for a whole way."""
    if "chat.commit" not in names or not _REACHED_A_DEVICE.isdisjoint(names):
        return ""
    if "sync.queue" not in names:
        return (
            "It ends at the commit: the recipient has no device yet, so there was nobody to tell. "
            "The message waits in the timeline for the first one."
        )
    return (
        "Nothing was delivered or pushed: no device of the recipient was connected, and none has "
        "a push token. The message waits in the timeline."
    )
