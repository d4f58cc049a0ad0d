"""`chatmesh bench resume`: many devices come back at once, far behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import JsonOption
from chatmesh.cli.bench import command
from chatmesh.cli.bench.messages import ChatNodesOption, DataOption, SizeOption
from chatmesh.cli.bench.output import HtmlOption, Output, SaveOption

if TYPE_CHECKING:
    from chatmesh.cli.bench.loaders import Progress
    from chatmesh.cli.bench.mesh import MeasuredMesh
    from chatmesh.cli.bench.result import Result

MAX_DEVICES = 20_000
MAX_BEHIND = 100_000
MAX_ENTRIES = 50_000_000

DevicesOption = Annotated[int, typer.Option(help="Devices that come back.")]
BehindOption = Annotated[int, typer.Option(help="Messages that each of them has missed.")]


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(resume)


def resume(
    devices: DevicesOption = 1_000,
    behind: BehindOption = 100,
    size: SizeOption = 200,
    chat_nodes: ChatNodesOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
    save: SaveOption = None,
    html: HtmlOption = None,
) -> None:
    """Time how long many devices take to catch up when all come back at once.

    Each was seen once and went away; what it missed was written to groups of a hundred. Every
    entry is checked; exit code 1 when one was lost, doubled or out of order.

    \b
    Examples:
      chatmesh bench resume --devices 1000 --behind 100 --json
    """
    try:
        from chatmesh.cli.bench import resume_run
        from chatmesh.cli.bench.payload import STAMP_CHARACTERS
        from chatmesh.limits import BY_NAME
    except ImportError as error:
        raise command.missing(error) from None
    command.between("--devices", devices, 1, MAX_DEVICES)
    command.between("--behind", behind, 1, MAX_BEHIND)
    command.between("--devices times --behind", devices * behind, 1, MAX_ENTRIES)
    command.between("--size", size, STAMP_CHARACTERS, BY_NAME["max_content_bytes"].high)
    nodes = command.check_nodes(chat_nodes, data)
    command.check_descriptors("--devices", devices)
    output = Output(as_json, save, html)
    load = resume_run.ResumeLoad(devices, behind, size)

    async def work(measured: MeasuredMesh, progress: Progress) -> Result:
        return await resume_run.measure(measured, load, progress)

    output.deliver(command.run_measured(work, data, nodes))
