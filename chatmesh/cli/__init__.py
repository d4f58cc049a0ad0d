"""The command line `chatmesh`: one module a command.

Each module of this package with a function `register(app: typer.Typer) -> None` is a command (or a
group of them); `main` finds and calls it. To add one, write its file; there is no list to edit.

Rules: a module imports only the standard library, typer and this file at its top; what is heavy
(grpc, psycopg, the SDK, embedded) is imported inside the command, so that `chatmesh --help` is
quick and extras stay optional. Results go to stdout, progress and errors to stderr; with `--json`
stdout holds JSON and nothing else. An expected failure is a `CommandError`: one line, exit code 1.
This file imports nothing of chatmesh.
"""

import pathlib
from typing import Annotated

import typer


class CommandError(Exception):
    """An expected failure: its text is shown on stderr as it is, and the exit code is 1."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


DataOption = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The mesh's data folder. Default: CHATMESH_DATA, else ~/.chatmesh.",
        show_default=False,
    ),
]
"""`--data`, the same in every command: `data: DataOption = None`."""

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
"""`--json`, the same in every command: `as_json: JsonOption = False`."""


def progress(text: str) -> None:
    """A line for the person who waits; on stderr, so that pipes stay clean."""
    typer.echo(text, err=True)
