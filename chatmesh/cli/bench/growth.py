"""`chatmesh bench growth`: a message costs the same however much there is of everything."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import CommandError, JsonOption, progress
from chatmesh.cli.bench import command
from chatmesh.cli.bench.messages import PairsOption, SecondsOption, SizeOption, WarmupOption
from chatmesh.cli.bench.output import HtmlOption, Output, SaveOption

if TYPE_CHECKING:
    from chatmesh.cli.bench.growth_run import GrowthLoad
    from chatmesh.cli.bench.result import Result

MAX_PRELOAD = 1_000_000_000
MAX_RUNS = 100
MAX_IDLE = 15_000

WindowOption = Annotated[int, typer.Option(help="Undelivered messages of each pair.")]
RunsOption = Annotated[int, typer.Option(help="Runs of each side; they take turns.")]
PreloadOption = Annotated[int, typer.Option(help="Messages stored before, on one side.")]
IdleOption = Annotated[
    int, typer.Option("--idle-users", help="Users online beside the load, on the side with few.")
]
FactorOption = Annotated[int, typer.Option(help="The other side has so many times as many.")]
NodesOption = Annotated[int, typer.Option("--chat-nodes", help="Chat nodes in place of two.")]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WHAT", help="preload, idle or nodes; may be repeated. Default: all.",
        show_default=False,
    ),
]  # fmt: skip


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(growth)


def growth(
    preload: PreloadOption = 1_000_000,
    idle_users: IdleOption = 200,
    idle_factor: FactorOption = 10,
    chat_nodes: NodesOption = 4,
    runs: RunsOption = 3,
    only: OnlyOption = None,
    pairs: PairsOption = 100,
    window: WindowOption = 20,
    size: SizeOption = 200,
    seconds: SecondsOption = 10,
    warmup: WarmupOption = 3,
    as_json: JsonOption = False,
    save: SaveOption = None,
    html: HtmlOption = None,
) -> None:
    """Compare what a message costs with more messages stored, users online, nodes in the mesh.

    Starts meshes of its own. The two sides of each comparison take turns; `cost_ratio` is the
    median cost (CPU of services and stores) of the grown side over the other's.

    \b
    Examples:
      chatmesh bench growth --save growth.json
      chatmesh bench growth --only idle --runs 5
    """
    try:
        from chatmesh.cli.bench.growth_run import DIMENSIONS, FEW_NODES, GrowthLoad
        from chatmesh.cli.bench.plan import ImpossibleLoad
    except ImportError as error:
        raise command.missing(error) from None
    wanted = tuple(dict.fromkeys(only or DIMENSIONS))
    for name in wanted:
        if name not in DIMENSIONS:
            raise CommandError(f"--only {name} is none of {', '.join(DIMENSIONS)}", exit_code=2)
    for option, value, low, high in (
        ("--preload", preload, 1, MAX_PRELOAD),
        ("--idle-users", idle_users, 1, MAX_IDLE),
        ("--idle-factor", idle_factor, 2, 1_000),
        ("--idle-users times --idle-factor", idle_users * idle_factor, 2, MAX_IDLE),
        ("--chat-nodes", chat_nodes, FEW_NODES + 1, command.MAX_CHAT_NODES),
        ("--runs", runs, 1, MAX_RUNS),
    ):
        command.between(option, value, low, high)
    load = GrowthLoad(
        pairs, window, size, seconds, warmup, runs, preload, idle_users, idle_factor, chat_nodes,
        wanted,
    )  # fmt: skip
    try:
        load.messages()
        load.stored_before()
    except ImpossibleLoad as error:
        raise CommandError(str(error), exit_code=2) from None
    if "idle" in wanted:
        command.check_descriptors("--idle-users times --idle-factor", idle_users * idle_factor)
    output = Output(as_json, save, html)
    output.deliver(_measured(load))


def _measured(load: GrowthLoad) -> Result:
    import psycopg
    import redis
    from rich.console import Console

    from chatmesh.cli.bench import report
    from chatmesh.cli.bench.growth_run import Growth, result_of
    from chatmesh.cli.bench.loaders import RunFailed
    from chatmesh.cli.bench.plan import ImpossibleLoad
    from chatmesh.cli.bench.processes import MeshDied
    from chatmesh.runtime import logs

    logs.configure("bench", "warning", "console")
    with ExitStack() as stack, report.progress_bar(Console(stderr=True)) as bar:
        growing = Growth(load, progress, bar)
        try:
            settings = growing.measure(stack)
        except ImpossibleLoad as error:
            raise CommandError(str(error), exit_code=2) from None
        except (RunFailed, MeshDied, OSError, psycopg.Error, redis.RedisError) as error:
            where = ""
            if growing.running is not None:
                growing.running.keep = True
                where = f" (all logs: {growing.running.logs})"
            raise CommandError(f"no result: {error}{where}") from None
        return result_of(load, growing, settings)
