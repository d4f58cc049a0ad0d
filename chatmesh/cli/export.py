"""`chatmesh export --tenant T`: all of a tenant as JSON lines, to look at or to leave with."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from chatmesh.cli import CommandError, DataOption

if TYPE_CHECKING:
    from chatmesh.cli.transfer.lines import End


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(name="export")(export)


def export(
    tenant: Annotated[
        str, typer.Option("--tenant", help="Whose data.", show_default="default")
    ] = "default",
    output: Annotated[
        pathlib.Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.", show_default=False),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with a FILE that an earlier run left unfinished."),
    ] = False,
    data: DataOption = None,
) -> None:
    """Write users, contacts, blocks, conversations, members and messages, with ids and times.

    Reads the PostgreSQL of CHATMESH_POSTGRES_URL, else of the running mesh; one snapshot, which the
    mesh may go on writing beside. Lines are described in docs/export.md.

    \b
    Examples:
      chatmesh export --tenant acme -o acme.jsonl
      chatmesh export --tenant acme -o acme.jsonl --resume
      chatmesh export | jq -r 'select(.kind == "text") | .event.content.text.body'
    """
    from chatmesh.cli.transfer.reading import export as write
    from chatmesh.cli.transfer.showing import bar
    from chatmesh.cli.transfer.store import connection

    if resume and output is None:
        raise CommandError("--resume needs --output: the file to go on with", 2)
    with connection(data, writes=False) as store, bar() as tell, _disk(output):

        def progress(done: int, total: int) -> None:
            tell("messages", done, total)

        if output is None:
            end = write(store, tenant, sys.stdout.buffer, resume=False, tell=progress)
        else:
            with _opened(output, resume) as file:
                end = write(store, tenant, file, resume=resume, tell=progress)
    typer.echo(_said(end), err=True)


@contextmanager
def _disk(output: pathlib.Path | None) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read it has seen enough
    except OSError as error:
        raise CommandError(f"cannot write {output or 'stdout'}: {error.strerror}") from None


def _opened(path: pathlib.Path, resume: bool) -> BinaryIO:
    try:
        if resume and path.exists():
            return path.open("r+b")
        return path.open("xb+" if not resume else "w+b")
    except FileExistsError:
        raise CommandError(
            f"{path} exists: name another file, or go on with it by --resume"
        ) from None
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None


def _said(end: End) -> str:
    counts = end.model_dump(exclude={"type"})
    return "exported " + ", ".join(f"{count:,} {name}" for name, count in counts.items())
