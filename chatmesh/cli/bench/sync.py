"""`chatmesh bench sync`: hints through the queue to online devices, and a backlog drained."""

from __future__ import annotations

from typing import Annotated

import typer

from chatmesh.cli import CommandError, JsonOption
from chatmesh.cli.bench.messages import (
    AckOption,
    ChatNodesOption,
    DataOption,
    PairsOption,
    ProcessesOption,
    SecondsOption,
    SizeOption,
    WarmupOption,
)
from chatmesh.cli.bench.output import HtmlOption, Output, SaveOption

DEFAULT_WINDOW = 4
BACKLOG_RATE = 800.0

WindowOption = Annotated[
    int | None,
    typer.Option(
        help=f"Undelivered messages each pair keeps under way. Default: {DEFAULT_WINDOW}.",
        show_default=False,
    ),
]
RateOption = Annotated[
    float | None,
    typer.Option(help="Instead of a window: messages/s over all pairs.", show_default=False),
]
BacklogOption = Annotated[
    int,
    typer.Option(
        metavar="HINTS",
        help="Hold sync_svc until so many hints have gathered, then time its drain.",
    ),
]
AwayOption = Annotated[int, typer.Option(help="Users who are away, whose messages are pushed.")]
AwayRateOption = Annotated[float, typer.Option(help="Messages/s to them.")]


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(sync)


def sync(
    pairs: PairsOption = 50,
    window: WindowOption = None,
    rate: RateOption = None,
    backlog: BacklogOption = 0,
    away: AwayOption = 20,
    away_rate: AwayRateOption = 20.0,
    size: SizeOption = 200,
    seconds: SecondsOption = 10,
    warmup: WarmupOption = 3,
    chat_nodes: ChatNodesOption = None,
    data: DataOption = None,
    processes: ProcessesOption = 1,
    ack_ms: AckOption = 100,
    as_json: JsonOption = False,
    save: SaveOption = None,
    html: HtmlOption = None,
) -> None:
    """Time messages from `accepted` to the recipient's stream, through queue, sync and Deliver.

    Every recipient has a push token: at the end each of its devices must have acked or been told of
    every message, once, and none that was online. Exit code 1 when that or any message failed.

    \b
    Examples:
      chatmesh bench sync --pairs 100 --seconds 30
      chatmesh bench sync --backlog 100000 --json    # held, then drained: rate, order, memory
    """
    try:
        from chatmesh.cli.bench.plan import ImpossibleLoad, Load
        from chatmesh.cli.bench.sync_command import show_run
        from chatmesh.cli.bench.sync_plan import AwayLoad, HintLoad
    except ImportError as error:
        raise CommandError(f"{error.name} is missing: pip install 'chatmesh[embedded]'") from None
    if backlog and window is not None:
        raise CommandError("--window waits for deliveries: with --backlog give --rate", exit_code=2)
    if backlog:
        rate, warmup = rate or BACKLOG_RATE, 0
        seconds = max(1.0, backlog / rate)  # a message is one hint: its recipient's
    try:
        online = Load(
            pairs=pairs,
            window=DEFAULT_WINDOW if window is None and rate is None else window,
            rate=rate,
            size_bytes=size,
            seconds=seconds,
            warmup_seconds=warmup,
            processes=processes,
            ack_ms=ack_ms,
        )
        load = HintLoad(online, AwayLoad(away, away_rate), backlog)
    except ImpossibleLoad as error:
        raise CommandError(str(error), exit_code=2) from None
    show_run("sync", load, data, chat_nodes, Output(as_json, save, html))
