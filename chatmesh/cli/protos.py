"""`chatmesh protos DIR`: the public contract's .proto files, for clients in other languages."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from chatmesh.cli import CommandError

_PUBLIC = Path("chatmesh/v1")
"""The public package; the mesh's own protos are of no use to clients."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(protos)


def protos(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="Where to write; made if missing.")
    ],
) -> None:
    """Write the public .proto files below DIR (as chatmesh/v1/*.proto)."""
    if not directory.strip():  # as of an unset variable; a path of nothing would be this folder
        raise CommandError("DIR is empty: name a folder, `.` for this one", 2)
    folder = Path(directory)
    with as_file(files("chatmesh")) as package:
        # an installed wheel holds them; a checkout has them beside the package
        places = (package / "protos", package.parent / "protos")
        source = next((place for place in places if (place / _PUBLIC).is_dir()), None)
        if source is None:
            raise CommandError("this installation holds no .proto files")
        target = folder / _PUBLIC
        try:
            target.mkdir(parents=True, exist_ok=True)
            written = [
                shutil.copyfile(file, target / file.name)
                for file in sorted((source / _PUBLIC).glob("*.proto"))
            ]
        except OSError as error:
            raise CommandError(f"cannot write below {folder}: {error.strerror}") from None
    for file in written:
        typer.echo(str(file))
