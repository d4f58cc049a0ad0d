"""`chatmesh bench groups`: what a delivery costs in groups of ten, a hundred, a thousand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import CommandError, JsonOption
from chatmesh.cli.bench import command
from chatmesh.cli.bench.messages import (
    AckOption,
    ChatNodesOption,
    DataOption,
    SecondsOption,
    SizeOption,
    WarmupOption,
)
from chatmesh.cli.bench.output import HtmlOption, Output, SaveOption

if TYPE_CHECKING:
    from chatmesh.cli.bench.loaders import Progress
    from chatmesh.cli.bench.mesh import MeasuredMesh
    from chatmesh.cli.bench.result import Result

MembersOption = Annotated[int, typer.Option(help="Members of the group, all of them online.")]
SendersOption = Annotated[int, typer.Option(help="Members that write.")]
WindowOption = Annotated[
    int, typer.Option(help="Messages of each sender that not every member has yet.")
]


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(groups)


def groups(
    members: MembersOption = 100,
    senders: SendersOption = 10,
    window: WindowOption = 4,
    size: SizeOption = 200,
    seconds: SecondsOption = 10,
    warmup: WarmupOption = 3,
    chat_nodes: ChatNodesOption = None,
    data: DataOption = None,
    ack_ms: AckOption = 100,
    as_json: JsonOption = False,
    save: SaveOption = None,
    html: HtmlOption = None,
) -> None:
    """Write to one group, and check each delivery to each member.

    A delivery is one message on one other member's device. Exit code 1 when one was lost, doubled
    or out of order.

    \b
    Examples:
      chatmesh bench groups --members 1000 --senders 5 --window 1 --json
    """
    try:
        from chatmesh.cli.bench import groups_run
        from chatmesh.cli.bench.payload import STAMP_CHARACTERS
        from chatmesh.cli.bench.plan import MAX_SECONDS, ImpossibleLoad
        from chatmesh.limits import BY_NAME
    except ImportError as error:
        raise command.missing(error) from None
    for option, value, low, high in (
        ("--members", members, 2, BY_NAME["max_group_members"].high),
        ("--senders", senders, 1, groups_run.MAX_SENDERS),
        ("--window", window, 1, BY_NAME["max_sends_in_flight"].high),
        ("--size", size, STAMP_CHARACTERS, BY_NAME["max_content_bytes"].high),
        ("--seconds", seconds, 0.1, MAX_SECONDS),
        ("--warmup", warmup, 0, MAX_SECONDS),
        ("--ack-ms", ack_ms, 1, 1_000 * BY_NAME["ack_timeout_seconds"].low),
    ):
        command.between(option, value, low, high)
    try:
        load = groups_run.GroupLoad(members, senders, window, size, seconds, warmup, ack_ms)
    except ImpossibleLoad as error:
        raise CommandError(str(error), exit_code=2) from None
    nodes = command.check_nodes(chat_nodes, data)
    output = Output(as_json, save, html)

    async def work(measured: MeasuredMesh, progress: Progress) -> Result:
        return await groups_run.measure(measured, load, progress)

    output.deliver(command.run_measured(work, data, nodes))
