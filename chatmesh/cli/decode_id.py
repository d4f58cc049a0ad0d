"""`chatmesh decode-id ID…`: what a Snowflake id says: time, worker, sequence."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import CommandError, JsonOption

if TYPE_CHECKING:
    from chatmesh.ids import SnowflakeLayout


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("decode-id")(decode_id)


def decode_id(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids in decimal.")],
    split: Annotated[
        str, typer.Option(help="Bits of time/worker/sequence, where a deployment changed them.")
    ] = "41/10/12",
    epoch_ms: Annotated[
        int | None,
        typer.Option(help="Epoch in ms since 1970, where a deployment changed it.", min=0),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show when an id was made, by which worker, as which number of its millisecond.

    The time is that of the sequencer's database, to its clock's accuracy. It is no order: that is
    conversation_seq.
    """
    layout = _layout(split, epoch_ms)
    decoded = []
    for text in ids:
        # int() takes more: signs, underscores, digits of other scripts
        if not (text.isascii() and text.isdigit()):
            raise CommandError(f"{text!r} is not an id: ids are decimal numbers", 2)
        try:
            parts = layout.decode(int(text))
            time = datetime.fromtimestamp(parts.created_at_ms / 1000, UTC)
        except (ValueError, OverflowError) as error:  # OverflowError: after the year 9999
            raise CommandError(str(error), 2) from None
        decoded.append(
            {
                "id": text,
                "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "created_at_ms": parts.created_at_ms,
                "worker": parts.worker,
                "sequence": parts.sequence,
            }
        )
    if as_json:
        typer.echo(json.dumps(decoded))
        return
    for found in decoded:
        typer.echo(
            f"{found['id']}  {found['time']}  worker {found['worker']}  "
            f"sequence {found['sequence']}"
        )


def _layout(split: str, epoch_ms: int | None) -> "SnowflakeLayout":
    from chatmesh.ids import PROJECT_EPOCH_MS, SnowflakeLayout

    bits = split.split("/")
    if len(bits) != 3 or not all(part.isascii() and part.isdigit() for part in bits):
        raise CommandError(f"--split {split!r} is not of the form 41/10/12", 2)
    time_bits, worker_bits, sequence_bits = map(int, bits)
    try:
        return SnowflakeLayout(
            time_bits,
            worker_bits,
            sequence_bits,
            PROJECT_EPOCH_MS if epoch_ms is None else epoch_ms,
        )
    except ValueError as error:
        raise CommandError(f"--split {split}: {error}", 2) from None
