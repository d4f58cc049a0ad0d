"""`chatmesh queue`: how far behind the sync queue is, and what could not be handled.

The queue is spread over Redis Streams; every replica of sync_svc sees the same streams and holds
batches of its own. What cannot be handled (a queue entry that cannot be decoded, a hint without an
account, a push that a provider refuses for good) becomes a dead letter: push_svc keeps the newest
100,000 in its table `push.dead_letter`, with reason, age and batch.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from chatmesh.cli import CommandError, DataOption, JsonOption

if TYPE_CHECKING:
    from chatmesh.cli.queue.calls import Operator
    from chatmesh.mesh.v1 import push_pb2

T = TypeVar("T")

LimitOption = Annotated[
    int, typer.Option(min=1, max=1_000, help="At most so many letters, oldest first.")
]
AfterOption = Annotated[int, typer.Option(min=0, help="Only letters with a higher number.")]
IdsArgument = Annotated[
    list[int] | None,
    typer.Argument(metavar="NUMBER", min=1, help="Letters, as `list` numbers them."),
]
AllOption = Annotated[bool, typer.Option("--all", help="All that are kept.")]


def register(app: typer.Typer) -> None:
    """Adds the group."""
    queue = typer.Typer(
        name="queue",
        help="The sync queue: how far behind it is, and its dead letters.\n\n"
        "Speaks to the mesh on --data; with CHATMESH_SYNC_TARGET, CHATMESH_PUSH_TARGET and "
        "CHATMESH_MESH_TLS_CA, _CERT and _KEY (a certificate of the command line) to any mesh.",
        no_args_is_help=True,
    )
    letters = typer.Typer(
        name="dead-letters",
        help="What could not be handled, kept with its reason. It blocks nothing.",
        no_args_is_help=True,
    )
    queue.command()(status)
    letters.command(name="list")(list_letters)
    letters.command()(retry)
    queue.add_typer(letters)
    app.add_typer(queue)


def status(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show every stream's length, unread entries and lag, and what each replica holds.

    The lag is the age of the oldest batch that nobody has read. Chat nodes resend nothing that is
    younger than the lag and 3 s. `redis` says whether batches go through Redis, or (away) are
    handled from each replica's memory.
    """
    found = _run(data, lambda operator: operator.status())
    if as_json:
        typer.echo(json.dumps(found))
        return
    for replica in found["replicas"]:
        redis = "up" if replica["redis_up"] else "away"
        typer.echo(
            f"{replica['target']}  redis {redis}, {replica['in_memory']:,} batches in memory"
            if "error" not in replica
            else f"{replica['target']}  does not answer: {replica['error']}"
        )
    for stream in found["streams"]:
        typer.echo(
            f"{stream['stream']}  {stream['length']:,} entries, {stream['unread']:,} unread, "
            f"lag {stream['lag_ms'] / 1000:.1f} s"
        )
    typer.echo(f"dead letters  {found['dead_letters']:,}")


def list_letters(
    limit: LimitOption = 100,
    after: AfterOption = 0,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show dead letters, oldest first: number, age, where from, whom it concerned, why.

    \b
    Examples:
      chatmesh queue dead-letters list
      chatmesh queue dead-letters list --after 100 --json
    """
    letters, total = _run(data, lambda operator: operator.letters(after, limit))
    now_ms = time.time_ns() // 1_000_000
    if as_json:
        documents = [_document(letter, now_ms) for letter in letters]
        typer.echo(json.dumps({"total": total, "letters": documents}))
        return
    for letter in letters:
        typer.echo(_line(letter, now_ms))
    if len(letters) < total or not letters:
        typer.echo(f"{len(letters):,} of {total:,} dead letters", err=True)


def retry(
    numbers: IdsArgument = None,
    all_letters: AllOption = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try dead letters again: each becomes a push job of its device (or of all the account's).

    A job tells nobody who has acked meanwhile. A letter that names no account stays to be read:
    the node that committed its batch sends it again by itself until it is settled.

    \b
    Examples:
      chatmesh queue dead-letters retry 17 18
      chatmesh queue dead-letters retry --all
    """
    if bool(numbers) == all_letters:
        raise CommandError("name letters by their numbers, or --all", exit_code=2)
    retried, left = _run(data, lambda operator: operator.retry(numbers or []))
    if as_json:
        typer.echo(json.dumps({"retried": retried, "left": left}))
        return
    typer.echo(f"{retried:,} became push jobs again, {left:,} stay (they name no account)")


def _run(data: pathlib.Path | None, work: Callable[[Operator], Coroutine[Any, Any, T]]) -> T:
    """Do something as an operator. Raises CommandError when the mesh does not answer."""
    from chatmesh.cli.queue.calls import Away, connected
    from chatmesh.runtime import logs

    logs.configure("queue", "warning", "console")

    async def main() -> T:
        async with connected(data) as operator:
            return await work(operator)

    try:
        return asyncio.run(main())
    except Away as away:
        raise CommandError(str(away)) from None


def _line(letter: push_pb2.DeadLetter, now_ms: int) -> str:
    from chatmesh.cli.plain import shown

    place = f"account {letter.account_id} seq {letter.timeline_seq}" if letter.account_id else ""
    batch = f"batch {letter.batch_id} of node {letter.node_id}" if letter.batch_id else ""
    parts = (
        str(letter.dead_letter_id),
        _age(now_ms - letter.created_at_ms),
        letter.origin,
        place,
        letter.device_id,
        batch,
        shown(letter.reason),
        f"{len(letter.payload):,} bytes",
    )
    return "  ".join(part for part in parts if part)


def _age(age_ms: int) -> str:
    seconds = max(0, age_ms) // 1000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _document(letter: push_pb2.DeadLetter, now_ms: int) -> dict[str, Any]:
    """64-bit ids as strings: they may exceed what JavaScript holds."""
    return {
        "number": letter.dead_letter_id,
        "age_ms": max(0, now_ms - letter.created_at_ms),
        "created_at_ms": letter.created_at_ms,
        "origin": letter.origin,
        "account_id": str(letter.account_id),
        "device_id": letter.device_id,
        "timeline_seq": letter.timeline_seq,
        "batch_id": str(letter.batch_id),
        "node_id": letter.node_id,
        "reason": letter.reason,
        "payload_bytes": len(letter.payload),
    }
