"""`chatmesh import FILE`: a tenant as `chatmesh export` wrote it, with its ids and times."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from chatmesh.cli import CommandError, DataOption, JsonOption

BAD_FILE = 1


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(name="import")(import_)


def import_(
    source: Annotated[pathlib.Path, typer.Argument(metavar="FILE", help="As exported.")],
    tenant: Annotated[
        str,
        typer.Option(
            "--tenant",
            help="Into this one, empty so far; left out: the file's own.",
            show_default=False,
        ),
    ] = "",
    only_check: Annotated[
        bool, typer.Option("--check", help="Look through the file only; no database is needed.")
    ] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring an exported tenant in. The whole file is checked first; a broken one changes nothing.

    Writes to the PostgreSQL of CHATMESH_POSTGRES_URL, else of the running mesh. Nobody of the
    tenant can sign in until all is there. Run it again after it was interrupted: it goes on
    where it was.

    \b
    Examples:
      chatmesh import acme.jsonl
      chatmesh import acme.jsonl --tenant acme-copy
      chatmesh import acme.jsonl --check
    """
    from chatmesh.cli.transfer import writing
    from chatmesh.cli.transfer.checking import BadFile
    from chatmesh.cli.transfer.showing import bar
    from chatmesh.cli.transfer.store import connection

    try:
        file = source.open("rb")
    except OSError as error:
        raise CommandError(f"cannot read {source}: {error.strerror}") from None
    with file, bar() as tell:
        if not file.seekable():
            raise CommandError(f"{source} is a pipe: it is read twice, so put it into a file", 2)
        try:
            checked = writing.check(file, tell)
        except BadFile as error:
            raise CommandError(f"{source}: {error}. Nothing was imported", BAD_FILE) from None
        said = "good"
        if not only_check:
            with connection(data, writes=True) as store:
                fresh = writing.write(store, tenant or checked.tenant, file, checked, tell)
            said = "imported" if fresh else "imported before, nothing to do"
    if as_json:
        typer.echo(writing.counts_json(checked.counts))
    else:
        counts = checked.counts
        typer.echo(
            f"{said}: {counts['user']:,} users, {counts['conversation']:,} conversations, "
            f"{counts['message']:,} messages"
        )
