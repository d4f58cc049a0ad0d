"""`chatmesh bench compare A B`: two saved runs side by side, as ratios."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from chatmesh.cli import CommandError


def register(bench: typer.Typer) -> None:
    """Adds the subcommand."""
    bench.command()(compare)


def compare(
    first: Annotated[pathlib.Path, typer.Argument(metavar="A", help="A run saved by --save.")],
    second: Annotated[pathlib.Path, typer.Argument(metavar="B", help="Another.")],
) -> None:
    """Show two saved runs and how many times B is A.

    Differences of load, machine or versions come first: with them a ratio says little. Both are of
    one kind (messages, idle, groups, …).
    """
    from rich.console import Console
    from rich.table import Table

    from chatmesh.cli.bench import saved

    try:
        a, b = saved.read(first), saved.read(second)
    except saved.NotARun as error:
        raise CommandError(str(error)) from None
    if a.kind != b.kind:
        raise CommandError(
            f"{first} is a run of `bench {a.kind}` and {second} one of `bench {b.kind}`: "
            "runs of two kinds have no figure in common",
            exit_code=2,
        )
    console = Console()
    for what, left, right in (("load", a.load, b.load), ("machine", a.machine, b.machine)):
        for name in sorted(left.keys() | right.keys()):
            if left.get(name) != right.get(name):
                console.print(
                    f"[yellow]{what} differs: {name}: {left.get(name)} / {right.get(name)}[/]"
                )
    table = Table("", "A", "B", "B / A", box=None, pad_edge=False)
    for name, left_value, right_value in figures(a.result, b.result):
        table.add_row(
            name, _shown(left_value), _shown(right_value), _ratio(left_value, right_value)
        )
    console.print(table)


def figures(
    a: Mapping[str, Any], b: Mapping[str, Any]
) -> Iterator[tuple[str, float | None, float | None]]:
    """(name, value of A, value of B) of every figure that either run has; settings are none."""
    from chatmesh.cli.bench import report

    left, right = dict(report.numbers(a)), dict(report.numbers(b))
    for name in dict.fromkeys((*left, *right)):
        yield name, left.get(name), right.get(name)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:,.5g}"


def _ratio(left: float | None, right: float | None) -> str:
    return f"{right / left:.2f}" if left and right is not None else "–"
