"""What becomes of a result: shown, saved, written as a page, printed as JSON.

Role: the options `--json`, `--save`, `--html` of every kind of run, and the exit code.
Rules: folders are checked before anything starts. A run that failed is shown and saved all the
same, so that its counts can be looked at, and ends with exit code 1.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import CommandError

if TYPE_CHECKING:
    from rich.console import Console

    from chatmesh.cli.bench.result import Result

SaveOption = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--save", metavar="FILE", help="Write the run, with machine and versions.",
        show_default=False,
    ),
]  # fmt: skip
HtmlOption = Annotated[
    pathlib.Path | None,
    typer.Option("--html", metavar="FILE", help="Write the report as a page.", show_default=False),
]


@dataclass(frozen=True, slots=True)
class Output:
    """Where a result goes. Making one raises CommandError for folders that are not there."""

    as_json: bool = False
    save: pathlib.Path | None = None
    html: pathlib.Path | None = None

    def __post_init__(self) -> None:
        """Raises CommandError (exit code 2)."""
        for option, file in (("--save", self.save), ("--html", self.html)):
            if file is not None and not file.parent.is_dir():
                raise CommandError(f"{option}: there is no folder {file.parent}", exit_code=2)

    def deliver(self, result: Result, draw: Callable[[Console], None] | None = None) -> None:
        """Show, save and print it; `draw` shows more than the form does.

        Raises CommandError when the run did not pass, or when a file cannot be written.
        """
        from rich.console import Console

        from chatmesh.cli.bench import report, saved

        def plainly(console: Console) -> None:
            report.show_result(console, result)

        draw = draw or plainly
        draw(Console(stderr=self.as_json))
        try:
            if self.save is not None:
                saved.save(self.save, result)
            if self.html is not None:
                report.save_page(self.html, draw)
        except OSError as error:
            raise CommandError(f"{error.filename} cannot be written: {error.strerror}") from None
        if self.as_json:
            typer.echo(json.dumps(result.figures))
        if not result.passed:
            raise CommandError(result.failure)
