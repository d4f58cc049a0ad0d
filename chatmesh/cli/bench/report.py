"""Shows a run to a person: progress while it goes on, then tables, histogram and settings.

Rules: draws, computes nothing; the figures are those of `Outcome.to_json`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.terminal_theme import MONOKAI

from chatmesh.cli.bench.loaders import Progress as Report
from chatmesh.cli.bench.outcome import Outcome
from chatmesh.cli.bench.result import MUST_BE_NONE, Result

PAGE_COLUMNS: Final = 132
LOSSES: Final = ("lost", "duplicated", "out_of_order")
NO_FIGURES: Final = frozenset(("settings", "machine", "load"))
WAY_BAR: Final = 30
MEMORY_AND_CPU_COLUMNS = ("", "CPU ms per message", "memory MiB")


@contextmanager
def progress_bar(console: Console) -> Iterator[Report]:
    """A bar with phase, share and messages delivered; plain lines where there is no terminal."""
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description:<18}"), BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[delivered]:,} delivered"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as progress:
        task = progress.add_task("starting", total=1.0, delivered=0)

        def report(phase: str, share: float, delivered: int) -> None:
            progress.update(task, description=phase, completed=share, delivered=delivered)

        yield report


def _lines(console: Console) -> Report:
    last = ""

    def report(phase: str, _share: float, _delivered: int) -> None:
        nonlocal last
        if phase != last:
            last = phase
            console.print(phase, style="dim")

    return report


def show(console: Console, outcome: Outcome) -> None:
    """The whole result."""
    result = outcome.to_json()
    load = outcome.load
    how = f"window {load.window}" if load.window is not None else f"{load.rate:g}/s"
    console.print(
        f"\n[bold]{result['delivered']:,} messages delivered in {load.seconds:g} s: "
        f"{result['delivered_per_s']:,.0f}/s[/bold]"
        f"  ({load.pairs} pairs, {how}, {load.size_bytes} bytes)"
    )
    console.print(_checks({name: result[name] for name in LOSSES}))
    console.print("  ".join(f"{name} {value:g} ms" for name, value in result["latency_ms"].items()))
    console.print("\n".join(outcome.histogram.lines()), highlight=False)
    console.print(_cost(result))
    console.print(
        f"PostgreSQL: {result['pg_bytes_per_message']:,} bytes and "
        f"{result['wal_bytes_per_message']:,} bytes of WAL per message"
    )
    if outcome.hops or outcome.sizes:
        console.print(_way(outcome))
    for name, settings in result["settings"].items():
        console.print(f"[dim]{name}: {_flat(settings)}[/dim]", highlight=False)


def _checks(counts: Mapping[str, Any]) -> str:
    good = not any(counts.values())
    text = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    return f"[green]all checked: {text}[/green]" if good else f"[bold red]{text}[/]"


def _cost(result: Mapping[str, Any]) -> Table:
    table = Table(*MEMORY_AND_CPU_COLUMNS, box=None, pad_edge=False)
    memory = result["memory_mib"]
    for name, cpu in result["cpu_s_per_1000"].items():
        # CPU-seconds per 1,000 messages are CPU-milliseconds per message
        table.add_row(
            name,
            "–" if cpu is None else f"{cpu:.4f}",
            f"{memory[name]:,.0f}" if name in memory else "",
        )
    return table


def _way(outcome: Outcome) -> Group:
    way = Table(
        "hop", "service", "step p50 µs", "p99 µs", "own p50 µs", "", box=None, pad_edge=False
    )
    longest = max((hop.step_p50_us for hop in outcome.hops), default=0) or 1
    for hop in outcome.hops:
        bar = "█" * round(hop.step_p50_us / longest * WAY_BAR)
        figures = (hop.step_p50_us, hop.step_p99_us, hop.own_p50_us)
        way.add_row(hop.name, hop.service, *(f"{value:,.0f}" for value in figures), bar)
    batches = Table("handled at once", "service", "mean", "times", box=None, pad_edge=False)
    for size in outcome.sizes:
        batches.add_row(size.path, size.service, f"{size.mean:,.1f}", f"{size.batches:,}")
    sampled = max((hop.messages for hop in outcome.hops), default=0)
    return Group(
        f"\nthe way of {sampled:,} sampled messages; a step begins where the one before ended", way,
        "", batches,
    )  # fmt: skip


def show_result(console: Console, result: Result) -> None:
    """A result of any kind: what it says of itself, its histogram, else all of its figures."""
    if result.headline:
        console.print(f"\n[bold]{escape(result.headline)}[/bold]")
    for line in result.lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    counts = {name: result.figures[name] for name in MUST_BE_NONE if name in result.figures}
    if counts:
        console.print(_checks(counts))
    if result.histogram is not None and result.histogram.count:
        console.print("\n".join(result.histogram.lines()), highlight=False)
    if not result.lines:
        console.print(_figures(result.figures, counts))
    for name, settings in result.figures.get("settings", {}).items():
        console.print(f"{name}: {_flat(settings)}", style="dim", markup=False, highlight=False)


def _figures(figures: Mapping[str, Any], without: Collection[str]) -> Table:
    table = Table("", "", box=None, pad_edge=False, show_header=False)
    table.columns[1].justify = "right"
    for name, value in numbers(figures):
        if name not in without:
            table.add_row(name, f"{value:,.6g}")
    return table


def numbers(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(name, value) of every number in a result; settings, lists and texts are none."""
    for name, value in figures.items():
        if name in NO_FIGURES or isinstance(value, bool):
            continue
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value


def save_page(path: Path, draw: Callable[[Console], None]) -> None:
    """What `draw` shows as a page of its own, for people who were not there. Raises OSError."""
    page = Console(record=True, file=io.StringIO(), width=PAGE_COLUMNS, force_terminal=True)
    draw(page)
    page.save_html(str(path), theme=MONOKAI)


def _flat(settings: Any) -> str:
    if not isinstance(settings, Mapping):
        return str(settings)
    return ", ".join(
        f"{name} ({_flat(value)})" if isinstance(value, Mapping) else f"{name}={value}"
        for name, value in settings.items()
    )
