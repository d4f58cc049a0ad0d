"""What the subcommands share: options, a mesh to measure, errors as a person reads them.

Rules: everything that cannot be is refused before a mesh starts (exit code 2). When the mesh or its
clients die, there is no figure: exit code 1, the reason, and where all logs are.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from chatmesh.cli import CommandError, progress

if TYPE_CHECKING:
    from chatmesh.cli.bench.loaders import Progress
    from chatmesh.cli.bench.mesh import MeasuredMesh
    from chatmesh.cli.bench.result import Result

DEFAULT_CHAT_NODES = 2
MAX_CHAT_NODES = 64
SPARE_DESCRIPTORS = 1_000
"""Files that a process of the mesh has open besides its sessions, with room."""


def between(option: str, value: float, low: float, high: float) -> None:
    """Refuse a value. Raises CommandError (exit code 2)."""
    if not math.isfinite(value) or not low <= value <= high:
        raise CommandError(f"{option} {value:g} must lie between {low:g} and {high:g}", exit_code=2)


def check_nodes(chat_nodes: int | None, data: pathlib.Path | None) -> int:
    """How many chat nodes to start. Raises CommandError (exit code 2)."""
    if chat_nodes is not None and (data is not None or not 1 <= chat_nodes <= MAX_CHAT_NODES):
        raise CommandError(
            f"--chat-nodes is for a mesh of its own (without --data), 1 to {MAX_CHAT_NODES}",
            exit_code=2,
        )
    return chat_nodes or DEFAULT_CHAT_NODES


def check_descriptors(option: str, sessions: int) -> None:
    """Refuse more sessions than a process here may have sockets. Raises CommandError."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and sessions + SPARE_DESCRIPTORS > hard:
        raise CommandError(
            f"{option} {sessions:,} needs as many sockets in one process, and `ulimit -Hn` is "
            f"{hard:,}: at most {max(0, hard - SPARE_DESCRIPTORS):,}",
            exit_code=2,
        )


def run_measured(
    work: Callable[[MeasuredMesh, Progress], Awaitable[Result]],
    data: pathlib.Path | None,
    chat_nodes: int,
    environment: Mapping[str, Mapping[str, str]] | None = None,
) -> Result:
    """Measure the mesh on `data`, or one of its own. Raises CommandError."""
    import asyncio

    import psycopg
    import redis
    from rich.console import Console

    from chatmesh.cli.bench import report
    from chatmesh.cli.bench.loaders import RunFailed
    from chatmesh.cli.bench.mesh import measured_mesh
    from chatmesh.cli.bench.plan import ImpossibleLoad
    from chatmesh.cli.bench.processes import MeshDied
    from chatmesh.runtime import logs

    async def all_of_it(measured: MeasuredMesh, bar: Progress) -> Result:
        return await work(measured, bar)

    logs.configure("bench", "warning", "console")
    with measured_mesh(data, chat_nodes, progress, environment) as measured:
        try:
            with report.progress_bar(Console(stderr=True)) as bar:
                result = asyncio.run(all_of_it(measured, bar))
        except ImpossibleLoad as error:
            raise CommandError(str(error), exit_code=2) from None
        except (RunFailed, MeshDied, OSError, psycopg.Error, redis.RedisError) as error:
            measured.keep = True
            raise CommandError(f"no result: {error} (all logs: {measured.logs})") from None
        if not result.passed:
            measured.keep = True
            progress(f"the mesh's logs: {measured.logs}")
        return result


def missing(error: ImportError) -> CommandError:
    """What to install."""
    return CommandError(f"{error.name} is missing: pip install 'chatmesh[embedded]'")
