"""`chatmesh check-history FILE…`: recorded histories against the promises."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import CommandError, JsonOption

if TYPE_CHECKING:
    from chatmesh.testing import Report


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("check-history")(check_history)


def check_history(
    files: Annotated[
        list[pathlib.Path],
        typer.Argument(
            metavar="FILE...", help="JSON lines, one file a process; or folders of them."
        ),
    ],
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="I1", help="Only this invariant; may be given several times."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check what clients recorded: nothing lost, doubled, reordered or misdelivered.

    Names each broken invariant, with the fewest recorded operations that show it. Exit code 0:
    all hold. The form of the files is told in chatmesh.testing.history.

    \b
    Examples:
      chatmesh check-history run/*.jsonl
      chatmesh check-history run --only I2 --json
    """
    from chatmesh.testing import Invariant, check, read_history
    from chatmesh.testing.history import HistoryBroken

    try:
        wanted = [Invariant(name.upper()) for name in only or ()]
    except ValueError as error:
        known = ", ".join(Invariant)
        raise CommandError(f"{error}: choose among {known}", 2) from None
    try:
        report = check(read_history(_files(files)), wanted)
    except HistoryBroken as error:
        raise CommandError(f"not a history: {error}") from None
    if report.operations == 0:
        raise CommandError("the history is empty: nothing was checked")
    typer.echo(_json(report) if as_json else _text(report, len(wanted) or len(Invariant)))
    if not report.ok:
        raise typer.Exit(1)


def _files(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    found: list[pathlib.Path] = []
    for path in paths:
        found += sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    return found


def _text(report: Report, checked: int) -> str:
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(report.counts.items()))
    lines = [f"{report.operations} operations ({counts})"]
    if report.ok:
        return "\n".join([*lines, f"{checked} invariants hold"])
    from chatmesh.testing.checker import MEANING

    for violation in report.violations:
        count = report.found[violation.invariant]
        lines.append(f"{violation.invariant} broken {count}×: {MEANING[violation.invariant]}")
        lines.append(f"  {violation.text}")
        lines += [f"    {op.where}: {op.to_json()}" for op in violation.slice]
    return "\n".join(lines)


def _json(report: Report) -> str:
    return json.dumps(
        {
            "ok": report.ok,
            "operations": report.operations,
            "counts": report.counts,
            "violations": [
                {
                    "invariant": violation.invariant,
                    "count": report.found[violation.invariant],
                    "text": violation.text,
                    "slice": [
                        {"where": op.where, **json.loads(op.to_json())} for op in violation.slice
                    ],
                }
                for violation in report.violations
            ],
        },
        ensure_ascii=False,
    )
