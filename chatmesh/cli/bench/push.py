"""`chatmesh bench push`: messages to users who are away, told by push."""

from __future__ import annotations

from typing import Annotated

import typer

from chatmesh.cli import CommandError, JsonOption
from chatmesh.cli.bench.messages import (
    ChatNodesOption,
    DataOption,
    SecondsOption,
    SizeOption,
    WarmupOption,
)
from chatmesh.cli.bench.output import HtmlOption, Output, SaveOption

ONLINE_RATE_SHARE = 0.1
"""Of the messages, so many go between online devices besides, to see what pushes cost them."""

UsersOption = Annotated[int, typer.Option(help="Users who are away, one device each.")]
RateOption = Annotated[float, typer.Option(help="Messages/s, to one user after the other.")]
PairsOption = Annotated[int, typer.Option(help="Pairs of online devices that talk besides.")]


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(push)


def push(
    users: UsersOption = 200,
    rate: RateOption = 100.0,
    pairs: PairsOption = 4,
    size: SizeOption = 200,
    seconds: SecondsOption = 10,
    warmup: WarmupOption = 3,
    chat_nodes: ChatNodesOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
    save: SaveOption = None,
    html: HtmlOption = None,
) -> None:
    """Push every message to users of whom no device is online, by the provider `log`.

    A user who gets messages faster than pushes go out is told of several at once. At the end every
    device must have been told of every message, visibly once. Exit code 1 when not.

    \b
    Examples:
      chatmesh bench push --users 1000 --rate 500
      chatmesh bench push --seconds 30 --json
    """
    try:
        from chatmesh.cli.bench.plan import ImpossibleLoad, Load
        from chatmesh.cli.bench.sync_command import show_run
        from chatmesh.cli.bench.sync_plan import AwayLoad, HintLoad
    except ImportError as error:
        raise CommandError(f"{error.name} is missing: pip install 'chatmesh[embedded]'") from None
    if users < 1:
        raise CommandError(f"--users {users} must be at least 1", exit_code=2)
    try:
        online = Load(
            pairs=pairs,
            window=None,
            rate=max(1.0, rate * ONLINE_RATE_SHARE),
            size_bytes=size,
            seconds=seconds,
            warmup_seconds=warmup,
        )
        load = HintLoad(online, AwayLoad(users, rate))
    except ImpossibleLoad as error:
        raise CommandError(str(error), exit_code=2) from None
    show_run("push", load, data, chat_nodes, Output(as_json, save, html))
