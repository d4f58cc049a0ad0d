"""`chatmesh bench commit`: what one message's commit costs PostgreSQL, by the size of its batch."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import CommandError, JsonOption, progress
from chatmesh.cli.bench.messages import DataOption
from chatmesh.cli.bench.output import HtmlOption, Output, SaveOption

if TYPE_CHECKING:
    import pathlib

    from chatmesh.cli.bench.commit_run import CommitOutcome, CommitPlan

MessagesOption = Annotated[
    int, typer.Option(help="Messages for each batch size.", min=256, max=1_000_000)
]
GrowthOption = Annotated[
    int,
    typer.Option(
        help="Messages stored before pages per message are counted again.", min=0, max=10_000_000
    ),
]


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(commit)


def commit(
    messages: MessagesOption = 2_560,
    growth: GrowthOption = 50_000,
    data: DataOption = None,
    as_json: JsonOption = False,
    save: SaveOption = None,
    html: HtmlOption = None,
) -> None:
    """Cost of the commit per message, in a database of its own that is dropped afterwards.

    Time, pages and WAL by batch size, whether pages per message grow with the tables, the share of
    updates that are HOT, and the share of time two lanes wait for each other's locks.
    """
    from chatmesh.cli.bench.commit_run import CommitPlan
    from chatmesh.cli.bench.result import Result

    output = Output(as_json, save, html)
    plan = CommitPlan(messages=messages, growth=growth)
    outcome = _run(plan, data)
    output.deliver(
        Result(kind="commit", load=asdict(plan), figures=outcome.to_json(), lines=lines(outcome))
    )


def lines(outcome: CommitOutcome) -> list[str]:
    """The result for people."""
    told = ["messages in a batch   µs   pages   WAL records   WAL bytes, each per message"]
    for size, cost_us in outcome.cost_us_by_batch.items():
        told.append(
            f"{size:>19} {cost_us:>6.0f} {outcome.pages_by_batch[size]:>6.1f} "
            f"{outcome.wal_records_by_batch[size]:>13.1f} {outcome.wal_bytes_by_batch[size]:>11.0f}"
        )
    more, waits = outcome.grown_messages, outcome.lock_wait_share
    told.append(f"pages per message after {more:,} more: {outcome.growth_ratio:.2f} times as many")
    told.append(f"updates of heads that are HOT: {outcome.hot_update_ratio:.1%}")
    told.append(f"two lanes on the same conversations wait for locks {waits:.1%} of the time")
    return told


def _run(plan: CommitPlan, data: pathlib.Path | None) -> CommitOutcome:
    import asyncio

    import psycopg

    from chatmesh.cli.bench import commit_run
    from chatmesh.cli.bench.mesh import measured_mesh
    from chatmesh.runtime import logs

    logs.configure("bench", "warning", "console")
    with measured_mesh(data, 1, progress) as measured:
        try:
            return asyncio.run(commit_run.measure(measured.mesh.owner_url(), plan))
        except commit_run.Unmeasurable as error:
            raise CommandError(str(error)) from None
        except (OSError, psycopg.Error) as error:
            measured.keep = True
            raise CommandError(f"the measurement failed: {error}") from None
