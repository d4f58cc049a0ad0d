"""`chatmesh drill rolling|kill`: every server of a mesh is replaced while people chat.

Role: the commands. `clients` is the load (real SDK clients in a process of their own), `replacing`
ends processes and sees them come back, `run` brings the two together, `outcome` judges.
Rules: a drill never touches the stores; it signals server processes and lets the mesh's own
supervisor start them again, as a cluster would.
"""

import json
import pathlib
from typing import Annotated

import typer

from chatmesh.cli import CommandError, JsonOption, progress

PairsOption = Annotated[int, typer.Option(min=1, max=1000, help="Pairs of SDK clients.")]
RateOption = Annotated[
    float, typer.Option(min=1, max=10_000, help="Messages/s over all pairs, sent at fixed times.")
]
ServiceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--service",
        metavar="NAME",
        help="Replace only this service (chat_svc, sync_svc, …); may be repeated. Default: all.",
        show_default=False,
    ),
]
DataOption = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Drill the mesh that runs on this data folder. Default: one of its own, "
        "two replicas of each service.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the group."""
    drill = typer.Typer(
        name="drill", help="Replace every server under load; every message is checked.",
        no_args_is_help=True,
    )  # fmt: skip
    drill.command()(rolling)
    drill.command()(kill)
    app.add_typer(drill)


def rolling(
    pairs: PairsOption = 8,
    rate: RateOption = 80,
    service: ServiceOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace the servers one after another, drained (SIGTERM).

    Exit code 1 when a message was lost or came twice, a client saw an error, or delivery paused
    for more than 1,000 ms.
    """
    _drill("rolling", pairs, rate, service, data, as_json)


def kill(
    pairs: PairsOption = 8,
    rate: RateOption = 80,
    service: ServiceOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace the servers one after another by kill -9.

    Exit code 1 when a message was lost or came twice, a client saw an error, or delivery paused
    for more than the node lease (10 s) + 5 s.
    """
    _drill("kill", pairs, rate, service, data, as_json)


def _drill(
    how: str,
    pairs: int,
    rate: float,
    services: list[str] | None,
    data: pathlib.Path | None,
    as_json: bool,
) -> None:
    try:
        from chatmesh.cli.drill import report, run
        from chatmesh.cli.drill.outcome import Plan
    except ImportError as error:
        raise CommandError(f"{error.name} is missing: pip install 'chatmesh[embedded]'") from None
    from chatmesh.runtime import logs

    logs.configure("drill", "warning", "console")
    plan = Plan(kind="kill" if how == "kill" else "rolling", pairs=pairs, rate=rate)
    try:
        outcome, where = run.drill(plan, data, services or [], progress)
    except run.DrillFailed as error:
        raise CommandError(str(error), exit_code=error.exit_code) from None
    if as_json:
        typer.echo(json.dumps(outcome.to_json()))
    else:
        typer.echo(report.text(outcome))
    if not outcome.passed:
        raise CommandError(f"the drill failed: {'; '.join(outcome.faults())} (logs: {where})")
