"""`chatmesh migrate`: brings the schemas of all services to this release."""

import enum
import os
from typing import Annotated

import typer

from chatmesh.cli import DataOption, progress

_PACKAGES = ("chat_svc", "sequencer_svc", "push_svc")


class StageChoice(enum.StrEnum):
    """Before or after the servers of a release are replaced."""

    pre = "pre"
    post = "post"
    both = "both"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(migrate)


def migrate(
    data: DataOption = None,
    stage: Annotated[
        StageChoice,
        typer.Option(help="pre: before the new servers start; post: when all old ones are gone."),
    ] = StageChoice.both,
) -> None:
    """Migrate the PostgreSQL of CHATMESH_POSTGRES_URL (as its owner), else of the running mesh."""
    from chatmesh.runtime import logs
    from chatmesh.runtime import migrate as migrations

    logs.configure("migrate", "warning", "console")
    url = os.environ.get("CHATMESH_POSTGRES_URL")
    if not url:
        from chatmesh.embedded import running

        url = running.find(data).owner_url()
    for each in migrations.STAGES:
        if stage not in (StageChoice.both, each):
            continue
        for package in _PACKAGES:
            applied = migrations.apply(url, package, each)
            progress(f"{package} {each}: {', '.join(applied) or 'nothing to do'}")
