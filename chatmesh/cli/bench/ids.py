"""`chatmesh bench ids`: ids per second, singly and in batches, and none of them twice."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatmesh.cli import CommandError, JsonOption, progress
from chatmesh.cli.bench.output import HtmlOption, Output, SaveOption

if TYPE_CHECKING:
    from chatmesh.cli.bench.ids_run import Batch

BATCHES = (1, 100, 1_000)
MAX_BATCH = 10_000
MAX_PROCESSES = 64

BatchOption = Annotated[
    list[int] | None,
    typer.Option(
        "--batch",
        metavar="IDS",
        help="Ids per request; may be given several times. Default: 1, 100 and 1000.",
        show_default=False,
    ),
]
SecondsOption = Annotated[float, typer.Option(help="Measured time of each batch size.")]
FlightOption = Annotated[int, typer.Option(help="Requests that each process keeps under way.")]
ProcessesOption = Annotated[int, typer.Option(help="Load processes.")]
DataOption = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Use the mesh that runs on this data folder.",
        show_default=False,
    ),
]  # fmt: skip


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(ids)


def ids(
    batch: BatchOption = None,
    seconds: SecondsOption = 5,
    in_flight: FlightOption = 32,
    processes: ProcessesOption = 1,
    data: DataOption = None,
    as_json: JsonOption = False,
    save: SaveOption = None,
    html: HtmlOption = None,
) -> None:
    """Take ids from the sequencer as chat nodes do, over streams with mutual TLS.

    Without --data a mesh of its own is started in a temporary folder. Exit code 1 when an id was
    given twice or out of order.

    \b
    Examples:
      chatmesh bench ids
      chatmesh bench ids --batch 256 --seconds 30 --json
    """
    sizes = batch or list(BATCHES)
    for name, value, most in (
        *(("--batch", size, MAX_BATCH) for size in sizes),
        ("--in-flight", in_flight, 1_000),
        ("--processes", processes, MAX_PROCESSES),
        ("--seconds", seconds, 3_600),
    ):
        if not 0 < value <= most:
            raise CommandError(f"{name} is above 0 and at most {most:,}", exit_code=2)
    output = Output(as_json, save, html)
    measured = _run(sizes, data, seconds=seconds, in_flight=in_flight, processes=processes)
    outcome = _outcome(measured)
    from chatmesh.cli.bench.result import Result

    output.deliver(
        Result(
            kind="ids",
            load={
                "batches": sizes, "seconds": seconds, "in_flight": in_flight,
                "processes": processes,
            },
            figures=outcome,
            lines=_lines(outcome),
            passed=not (outcome["duplicated"] or outcome["unordered"]),
            failure="the run failed: ids were given twice or out of order",
        )
    )  # fmt: skip


def _run(
    sizes: list[int], data: pathlib.Path | None, *, seconds: float, in_flight: int, processes: int
) -> list[Batch]:
    try:
        from chatmesh.cli.bench.ids_run import LoadFailed, measure
        from chatmesh.cli.bench.mesh import measured_mesh
        from chatmesh.cli.bench.processes import MeshDied
        from chatmesh.runtime import logs
    except ImportError as error:
        raise CommandError(f"{error.name} is missing: pip install 'chatmesh[embedded]'") from None
    logs.configure("bench", "warning", "console")
    with measured_mesh(data, 1, progress) as measured:
        try:
            found = []
            for size in sizes:
                progress(f"batches of {size:,} for {seconds:g} s")
                found.append(
                    measure(
                        measured.mesh, size,
                        seconds=seconds, in_flight=in_flight, processes=processes,
                    )
                )  # fmt: skip
        except (LoadFailed, MeshDied, OSError) as error:
            measured.keep = True
            raise CommandError(f"no result: {error} (all logs: {measured.logs})") from None
        return found


def _outcome(measured: list[Batch]) -> dict[str, Any]:
    from chatmesh.cli.bench import machine
    from chatmesh.cli.bench.ids_run import duplicated

    batches = [one.to_json() for one in measured]
    return {
        "ids_per_s_by_batch": {str(one["batch"]): one["ids_per_s"] for one in batches},
        "ids_per_s": max(one["ids_per_s"] for one in batches),
        "duplicated": duplicated(measured),
        "unordered": sum(one["unordered"] for one in batches),
        "ids": sum(one.ids for one in measured),
        "batches": batches,
        "machine": machine.describe(),
    }


def _lines(outcome: dict[str, Any]) -> list[str]:
    lines = [f"{'batch':>6} {'ids/s':>12} {'requests/s':>11} {'ids per core second':>20}"]
    lines += [
        f"{one['batch']:>6,} {one['ids_per_s']:>12,} {one['requests_per_s']:>11,}"
        f" {one['ids_per_core_s']:>20,}"
        for one in outcome["batches"]
    ]
    return [
        *lines,
        (
            f"{outcome['ids']:,} ids: {outcome['duplicated']} given twice, "
            f"{outcome['unordered']} out of order"
        ),
    ]
