"""`chatmesh bench soak`: minutes of steady load; memory and p99 must stay flat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import CommandError, JsonOption
from chatmesh.cli.bench import command
from chatmesh.cli.bench.messages import (
    ChatNodesOption,
    DataOption,
    PairsOption,
    ProcessesOption,
    SizeOption,
    WarmupOption,
)
from chatmesh.cli.bench.output import HtmlOption, Output, SaveOption

if TYPE_CHECKING:
    from chatmesh.cli.bench.loaders import Progress
    from chatmesh.cli.bench.mesh import MeasuredMesh
    from chatmesh.cli.bench.result import Result

MAX_MINUTES = 7 * 24 * 60
WINDOW = 20
LEAST_SLICES = 3

MinutesOption = Annotated[float, typer.Option(help="Measured time.")]
RateOption = Annotated[
    float | None,
    typer.Option(
        help="Messages/s over all pairs. Default: half of the peak, which is measured first.",
        show_default=False,
    ),
]
SliceOption = Annotated[
    float, typer.Option("--slice", help="Seconds of a slice, whose p99 and memory are noted.")
]
PeakOption = Annotated[
    float, typer.Option(help="Seconds of looking for the peak, when there is no --rate.")
]


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(soak)


def soak(
    minutes: MinutesOption = 10,
    rate: RateOption = None,
    pairs: PairsOption = 100,
    size: SizeOption = 200,
    slice_seconds: SliceOption = 30,
    peak_seconds: PeakOption = 20,
    warmup: WarmupOption = 10,
    processes: ProcessesOption = 1,
    chat_nodes: ChatNodesOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
    save: SaveOption = None,
    html: HtmlOption = None,
) -> None:
    """Send for minutes at half of the peak, and show whether memory and p99 stay flat.

    Checkpoints and vacuum are part of it: when PostgreSQL has done none by half of the time, one
    is ordered. Slopes are an hour's. Exit code 1 when a message was lost, doubled or out of order.

    \b
    Examples:
      chatmesh bench soak --minutes 10 --save soak.json
      chatmesh bench soak --minutes 60 --rate 2000 --data DIR
    """
    try:
        from chatmesh.cli.bench import soak_run
        from chatmesh.cli.bench.plan import ImpossibleLoad, Load
        from chatmesh.cli.bench.soak_outcome import SoakLoad
    except ImportError as error:
        raise command.missing(error) from None
    command.between("--minutes", minutes, 0.01, MAX_MINUTES)
    command.between("--slice", slice_seconds, 0.1, minutes * 60 / LEAST_SLICES)
    command.between("--peak-seconds", peak_seconds, 0.1, 3_600)
    try:  # what the rate will be is not known yet; all else is checked now
        Load(
            pairs=pairs, window=None if rate is not None else WINDOW, rate=rate, size_bytes=size,
            seconds=minutes * 60, warmup_seconds=warmup, processes=processes,
        )  # fmt: skip
    except ImpossibleLoad as error:
        raise CommandError(str(error), exit_code=2) from None
    nodes = command.check_nodes(chat_nodes, data)
    output = Output(as_json, save, html)
    load = SoakLoad(pairs, rate, size, minutes, warmup, slice_seconds, peak_seconds, processes)

    async def work(measured: MeasuredMesh, progress: Progress) -> Result:
        return await soak_run.measure(measured, load, progress)

    output.deliver(command.run_measured(work, data, nodes))
