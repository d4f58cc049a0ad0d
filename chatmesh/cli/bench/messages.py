"""`chatmesh bench messages`: pairs of clients that send as fast as it goes, or at a rate."""

import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import CommandError, JsonOption, progress
from chatmesh.cli.bench.output import HtmlOption, Output, SaveOption

if TYPE_CHECKING:
    from rich.console import Console

    from chatmesh.cli.bench.outcome import Outcome
    from chatmesh.cli.bench.plan import Load

DEFAULT_WINDOW = 20
DEFAULT_CHAT_NODES = 2

PairsOption = Annotated[int, typer.Option(help="Pairs of a sender and a receiver.")]
WindowOption = Annotated[
    int | None,
    typer.Option(
        help=f"Undelivered messages each pair keeps under way. Default: {DEFAULT_WINDOW}.",
        show_default=False,
    ),
]
RateOption = Annotated[
    float | None,
    typer.Option(
        help="Instead of a window: messages/s over all pairs, sent at intended times; latency "
        "counts from them.",
        show_default=False,
    ),
]
SizeOption = Annotated[int, typer.Option(help="Bytes of each message's body.")]
SecondsOption = Annotated[float, typer.Option(help="Measured time.")]
WarmupOption = Annotated[float, typer.Option(help="Seconds of load before it.")]
ChatNodesOption = Annotated[
    int | None,
    typer.Option(
        help=f"Chat nodes of the mesh that is started. Default: {DEFAULT_CHAT_NODES}.",
        show_default=False,
    ),
]
DataOption = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Use the mesh that runs on this data folder.",
        show_default=False,
    ),
]
ProcessesOption = Annotated[int, typer.Option(help="Load processes that share the pairs.")]
AckOption = Annotated[int, typer.Option(help="Milliseconds until a device acks what it stored.")]
ProfileOption = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Also show where sampled messages spent their time, hop by hop, and batch sizes.",
    ),
]


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(messages)


def messages(
    pairs: PairsOption = 100,
    window: WindowOption = None,
    rate: RateOption = None,
    size: SizeOption = 200,
    seconds: SecondsOption = 10,
    warmup: WarmupOption = 3,
    chat_nodes: ChatNodesOption = None,
    data: DataOption = None,
    processes: ProcessesOption = 1,
    ack_ms: AckOption = 100,
    profile: ProfileOption = False,
    as_json: JsonOption = False,
    save: SaveOption = None,
    html: HtmlOption = None,
) -> None:
    """Deliver messages from pairs of devices; receivers check every one.

    Without --data a mesh of its own is started in a temporary folder. Exit code 1 when anything
    was lost, doubled or out of order, or when the mesh did not live to the end.
    """
    try:
        from rich.console import Console

        from chatmesh.cli.bench import report
        from chatmesh.cli.bench.plan import MAX_CHAT_NODES, ImpossibleLoad, Load
    except ImportError as error:
        raise CommandError(f"{error.name} is missing: pip install 'chatmesh[embedded]'") from None
    try:
        load = Load(
            pairs=pairs,
            window=DEFAULT_WINDOW if window is None and rate is None else window,
            rate=rate,
            size_bytes=size,
            seconds=seconds,
            warmup_seconds=warmup,
            processes=processes,
            ack_ms=ack_ms,
        )
        if chat_nodes is not None and (data is not None or not 1 <= chat_nodes <= MAX_CHAT_NODES):
            raise ImpossibleLoad(
                f"--chat-nodes is for a mesh of its own (without --data), 1 to {MAX_CHAT_NODES}"
            )
    except ImpossibleLoad as error:
        raise CommandError(str(error), exit_code=2) from None
    output = Output(as_json, save, html)
    outcome, nodes = _run(
        load, data, chat_nodes or DEFAULT_CHAT_NODES, Console(stderr=True), profile=profile
    )
    output.deliver(outcome.result(nodes), lambda console: report.show(console, outcome))


def _run(
    load: "Load", data: pathlib.Path | None, chat_nodes: int, console: "Console", *, profile: bool
) -> tuple["Outcome", int]:
    """The outcome, and how many chat nodes the mesh has."""
    import asyncio

    import psycopg
    import redis

    from chatmesh.cli.bench import report, run
    from chatmesh.cli.bench.loaders import RunFailed
    from chatmesh.cli.bench.mesh import measured_mesh
    from chatmesh.cli.bench.plan import ImpossibleLoad
    from chatmesh.cli.bench.processes import MeshDied
    from chatmesh.runtime import logs

    logs.configure("bench", "warning", "console")
    with measured_mesh(data, chat_nodes, progress) as measured:
        try:
            with report.progress_bar(console) as bar:
                outcome = asyncio.run(run.run(measured.mesh, load, bar, profile=profile))
        except ImpossibleLoad as error:
            raise CommandError(str(error), exit_code=2) from None
        except (RunFailed, MeshDied, OSError, psycopg.Error, redis.RedisError) as error:
            measured.keep = True
            raise CommandError(f"no result: {error} (all logs: {measured.logs})") from None
        if not outcome.passed:
            measured.keep = True
            progress(f"the mesh's logs: {measured.logs}")
        return outcome, len(measured.mesh.public)
