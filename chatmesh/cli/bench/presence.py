"""`chatmesh bench presence`: logins, notices to friends, and what staying online costs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatmesh.cli import CommandError, JsonOption, progress
from chatmesh.cli.bench.messages import ChatNodesOption, DataOption
from chatmesh.cli.bench.output import HtmlOption, Output, SaveOption

if TYPE_CHECKING:
    import pathlib

    from chatmesh.cli.bench.presence_run import PresenceLoad

DEFAULT_CHAT_NODES = 2
MAX_PAIRS = 20_000

PairsOption = Annotated[int, typer.Option(help="Pairs of friends, a session each, on two nodes.")]
ProbesOption = Annotated[
    int, typer.Option(help="Times that somebody goes, comes back, and the friend is told.")
]
SecondsOption = Annotated[
    float, typer.Option(help="Measured time of being idle, and of changes at full speed.")
]
StormOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Instead of --pairs: so many sessions, which in the end reconnect all at once while "
        "messages flow.",
    ),
]


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(presence)


def presence(
    pairs: PairsOption = 500,
    probes: ProbesOption = 200,
    seconds: SecondsOption = 10,
    storm: StormOption = 0,
    chat_nodes: ChatNodesOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
    save: SaveOption = None,
    html: HtmlOption = None,
) -> None:
    """Time logins until friends are told, count changes, and weigh those who only stay online.

    Without --data a mesh of its own is started in a temporary folder. With --storm, exit code 1
    when a message was lost, doubled or out of order in it.

    \b
    Examples:
      chatmesh bench presence --json
      chatmesh bench presence --storm 2000    # p99 of messages against the quiet run
    """
    for name, value, low, high in (
        ("--pairs", pairs, 1, MAX_PAIRS),
        ("--probes", probes, 1, 1_000_000),
        ("--seconds", seconds, 0.1, 3_600),
        ("--storm", storm, 0, MAX_PAIRS),
    ):
        if not low <= value <= high:
            raise CommandError(f"{name} lies between {low:g} and {high:,}", exit_code=2)
    if chat_nodes is not None and data is not None:
        raise CommandError("--chat-nodes is for a mesh of its own (without --data)", exit_code=2)
    try:
        from chatmesh.cli.bench.presence_run import PresenceLoad
    except ImportError as error:
        raise CommandError(f"{error.name} is missing: pip install 'chatmesh[embedded]'") from None
    output = Output(as_json, save, html)
    load = PresenceLoad(storm or pairs, probes, seconds, storm=bool(storm))
    outcome = _run(load, data, chat_nodes or DEFAULT_CHAT_NODES)
    from chatmesh.cli.bench.result import Result

    stormed = outcome["storm"]
    output.deliver(
        Result(
            kind="presence",
            load=asdict(load),
            figures=outcome,
            lines=_lines(outcome),
            passed=stormed is None or stormed["passed"],
            failure="the run failed: messages were lost, doubled or out of order",
        )
    )


def _run(load: PresenceLoad, data: pathlib.Path | None, chat_nodes: int) -> dict[str, Any]:
    import asyncio

    import psycopg
    import redis

    from chatmesh.cli.bench import machine, presence_run
    from chatmesh.cli.bench.loaders import RunFailed
    from chatmesh.cli.bench.mesh import measured_mesh
    from chatmesh.cli.bench.plan import ImpossibleLoad
    from chatmesh.cli.bench.processes import MeshDied
    from chatmesh.runtime import logs

    logs.configure("bench", "warning", "console")
    with measured_mesh(data, chat_nodes, progress) as measured:
        try:
            found = asyncio.run(presence_run.measure(measured.mesh, load, progress))
        except ImpossibleLoad as error:
            raise CommandError(str(error), exit_code=2) from None
        except (RunFailed, MeshDied, OSError, psycopg.Error, redis.RedisError) as error:
            measured.keep = True
            raise CommandError(f"no result: {error} (all logs: {measured.logs})") from None
    return {**found, "machine": machine.describe()}


def _lines(outcome: dict[str, Any]) -> list[str]:
    told = outcome["connect_to_friend_ms"]
    cores = ", ".join(f"{name} {share:g}" for name, share in outcome["idle_cores_per_1000"].items())
    lines = [
        f"{outcome['sessions']:,} sessions, {outcome['attach_per_s']:,} logins/s",
        (
            f"connect to friend's notice: p50 {told['p50']:g} ms, p99 {told['p99']:g} ms "
            f"({told['count']:,} times)"
        ),
        f"{outcome['changes_per_s']:,} changes/s told to friends",
        f"1,000 idle users: {outcome['redis_bytes_per_1000']:,} bytes of Redis; cores: {cores}",
    ]  # fmt: skip
    if (storm := outcome["storm"]) is not None:
        p99 = storm["message_p99_ms"]
        lines.append(
            f"storm of {storm['sessions']:,}: live after {storm['live_s']:g} s, all friends shown "
            f"after {storm['told_s']:g} s; message p99 {p99['quiet']:g} ms quiet, "
            f"{p99['storm']:g} ms in it: {storm['p99_ratio']:g} times"
        )
    return lines
