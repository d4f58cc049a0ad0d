"""What `bench sync` and `bench push` share: run it, show it, say whether it passed."""

from __future__ import annotations

import pathlib
from dataclasses import asdict
from typing import TYPE_CHECKING

from chatmesh.cli import CommandError, progress

if TYPE_CHECKING:
    from rich.console import Console

    from chatmesh.cli.bench.output import Output
    from chatmesh.cli.bench.sync_outcome import HintOutcome
    from chatmesh.cli.bench.sync_plan import HintLoad

DEFAULT_CHAT_NODES = 2


def show_run(
    kind: str,
    load: HintLoad,
    data: pathlib.Path | None,
    chat_nodes: int | None,
    output: Output,
) -> None:
    """Run a load and deliver its result; `kind` is the subcommand.

    Raises CommandError when it failed or cannot be.
    """
    from rich.console import Console

    from chatmesh.cli.bench.plan import MAX_CHAT_NODES
    from chatmesh.cli.bench.result import Result

    if chat_nodes is not None and (data is not None or not 1 <= chat_nodes <= MAX_CHAT_NODES):
        raise CommandError(
            f"--chat-nodes is for a mesh of its own (without --data), 1 to {MAX_CHAT_NODES}",
            exit_code=2,
        )
    if load.backlog and data is not None:
        raise CommandError(
            "--backlog holds sync_svc: it needs a mesh of its own (without --data)", exit_code=2
        )
    outcome = _run(load, data, chat_nodes or DEFAULT_CHAT_NODES, Console(stderr=True))
    output.deliver(
        Result(
            kind=kind,
            load=asdict(load),
            figures=outcome.to_json(),
            lines=outcome.lines(),
            histogram=outcome.after_accepted,
            passed=outcome.passed,
        )
    )


def _run(
    load: HintLoad, data: pathlib.Path | None, chat_nodes: int, console: Console
) -> HintOutcome:
    import asyncio

    import psycopg
    import redis

    from chatmesh.cli.bench import report, sync_run
    from chatmesh.cli.bench.loaders import RunFailed
    from chatmesh.cli.bench.mesh import measured_mesh
    from chatmesh.cli.bench.plan import ImpossibleLoad
    from chatmesh.cli.bench.processes import MeshDied
    from chatmesh.runtime import logs

    logs.configure("bench", "warning", "console")
    with measured_mesh(data, chat_nodes, progress) as measured:
        try:
            with report.progress_bar(console) as bar:
                outcome = asyncio.run(sync_run.run(measured, load, bar))
        except ImpossibleLoad as error:
            raise CommandError(str(error), exit_code=2) from None
        except (RunFailed, MeshDied, OSError, psycopg.Error, redis.RedisError) as error:
            measured.keep = True
            raise CommandError(f"no result: {error} (all logs: {measured.logs})") from None
        if not outcome.passed:
            measured.keep = True
            progress(f"the mesh's logs: {measured.logs}")
        return outcome
