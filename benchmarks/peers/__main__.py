"""`python -m benchmarks.peers`: our mesh and ejabberd under the same load, and the ratios.

Without Debian's package `ejabberd` only ours is measured, and that is said.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from benchmarks.peers import ejabberd, side_by_side
from chatmesh.cli import CommandError, progress
from chatmesh.cli.bench import report
from chatmesh.cli.bench.loaders import RunFailed
from chatmesh.cli.bench.output import HtmlOption, Output, SaveOption
from chatmesh.cli.bench.plan import ImpossibleLoad, Load
from chatmesh.cli.bench.processes import MeshDied
from chatmesh.cli.bench.result import Result
from chatmesh.embedded.errors import EmbeddedError
from chatmesh.runtime import logs


def loads_of(
    pairs: int, window: int, rate: float, size: int, seconds: float, warmup: float
) -> dict[str, Load]:
    """The two loads: as fast as it goes, and at a rate. Raises ImpossibleLoad."""
    shared: dict[str, Any] = {
        "pairs": pairs, "size_bytes": size, "seconds": seconds, "warmup_seconds": warmup,
    }  # fmt: skip
    return {
        f"{pairs}x{window}": Load(window=window, rate=None, **shared),
        f"{rate:g}/s": Load(window=None, rate=rate, **shared),
    }


def measure(loads: dict[str, Load]) -> Result:
    """Both sides. Raises CommandError."""
    import psycopg
    import redis
    from rich.console import Console

    absent = ejabberd.missing()
    if absent:
        progress(f"{absent}: only ours is measured")
    logs.configure("bench", "warning", "console")
    with report.progress_bar(Console(stderr=True)) as bar:
        try:
            mine = side_by_side.ours(loads, progress, bar)
            other = None if absent else side_by_side.theirs(loads, progress, bar)
        except ImpossibleLoad as error:
            raise CommandError(str(error), exit_code=2) from None
        except (
            RunFailed, MeshDied, ejabberd.EjabberdFailed, OSError, psycopg.Error, redis.RedisError,
        ) as error:  # fmt: skip
            raise CommandError(f"no result: {error}") from None
    return result_of(loads, mine, other, absent)


def result_of(
    loads: dict[str, Load], mine: dict[str, Any], other: dict[str, Any] | None, absent: str | None
) -> Result:
    """Names of `--json`."""
    figures: dict[str, Any] = {
        "ours": {name: asdict(one) for name, one in mine["figures"].items()},
        "ejabberd": None,
        "not_measured": absent,
        "settings": {"ours": mine["settings"]},
    }
    lines = [_line("ours", name, one) for name, one in mine["figures"].items()]
    if other is not None:
        figures["ejabberd"] = {name: asdict(one) for name, one in other["figures"].items()}
        figures["ejabberd_version"] = other["version"]
        figures["ejabberd_archived"] = other["archived"]
        figures["ratios"] = side_by_side.ratios(mine["figures"], other["figures"])
        figures["settings"]["ejabberd"] = other["settings"]
        lines += [_line("ejabberd", name, one) for name, one in other["figures"].items()]
        for name, ratios in figures["ratios"].items():
            shown = ", ".join(f"{figure} {ratio}" for figure, ratio in ratios.items())
            lines.append(f"ours / ejabberd, {name}: {shown}")
    elif absent:
        lines.append(f"{absent}: nothing to compare with")
    return Result(
        kind="peers",
        load={name: load.to_json() for name, load in loads.items()},
        figures=figures,
        headline="the same load on ours and on ejabberd with a PostgreSQL archive",
        lines=lines,
    )


def _line(server: str, load: str, one: side_by_side.Measured) -> str:
    return (
        f"{server}, {load}: {one.delivered_per_s:,.0f}/s, p50 {one.p50_ms:g} ms, "
        f"p99 {one.p99_ms:g} ms, {one.cpu_s_per_1000:g} CPU-seconds per 1,000 "
        f"(client {one.client_cpu_s_per_1000:g})"
    )


def peers(
    pairs: Annotated[int, typer.Option(help="Pairs of a sender and a receiver.")] = 100,
    window: Annotated[int, typer.Option(help="Undelivered messages of each pair.")] = 20,
    rate: Annotated[float, typer.Option(help="Messages/s of the second load.")] = 1_000,
    size: Annotated[int, typer.Option(help="Bytes of each body.")] = 200,
    seconds: Annotated[float, typer.Option(help="Measured time of each load.")] = 10,
    warmup: Annotated[float, typer.Option(help="Seconds of load before it.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    save: SaveOption = None,
    html: HtmlOption = None,
) -> None:
    """Measure our mesh and ejabberd (users and archive in PostgreSQL) by the same loads."""
    try:
        loads = loads_of(pairs, window, rate, size, seconds, warmup)
    except ImpossibleLoad as error:
        raise CommandError(str(error), exit_code=2) from None
    output = Output(as_json, save, html)
    output.deliver(measure(loads))


def main() -> int:
    """The exit code: 2 for what cannot be, 1 when there is no result."""
    try:
        typer.run(peers)
    except CommandError as error:
        typer.echo(f"peers: {error}", err=True)
        return error.exit_code
    except EmbeddedError as error:
        typer.echo(f"peers: {error}", err=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
