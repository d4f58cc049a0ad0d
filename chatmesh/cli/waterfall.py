"""The spans of one message as a waterfall: which hop, in which process, when, how long.

Pure but for the drawing; used by `trace` and `demo`.
"""

from __future__ import annotations

import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from chatmesh.embedded.spans import Span

BAR_CHARACTERS = 32
PIPE_WIDTH = 132
"""Columns when the output is no terminal: nothing is cut."""
MIN_WIDTH = 100
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red", "bright_cyan", "bright_green")


@dataclass(frozen=True, slots=True)
class Row:
    """One hop. Times are in ms; `start_ms` counts from the trace's first span."""

    name: str
    service: str
    pid: int
    depth: int
    start_ms: float
    duration_ms: float
    attributes: dict[str, Any]


def rows(spans: Sequence[Span]) -> list[Row]:
    """Spans in the order of a tree: children below their parent, by start.

    A span whose parent was not recorded stands at the top: a trace's root may live in a client.
    """
    if not spans:
        return []
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: (span.start_ns, -span.end_ns)):
        children[span.parent_id if span.parent_id in known else ""].append(span)
    first = min(span.start_ns for span in spans)
    found: list[Row] = []
    waiting = [(span, 0) for span in reversed(children[""])]
    seen: set[str] = set()
    while waiting:
        span, depth = waiting.pop()
        if span.span_id in seen:
            continue  # a damaged trace may hold a circle
        seen.add(span.span_id)
        found.append(
            Row(
                name=span.name,
                service=span.service,
                pid=span.pid,
                depth=depth,
                start_ms=(span.start_ns - first) / 1e6,
                duration_ms=(span.end_ns - span.start_ns) / 1e6,
                attributes=dict(span.attributes),
            )
        )
        waiting += [(child, depth + 1) for child in reversed(children[span.span_id])]
    return found


def console_width() -> int | None:
    """Columns to draw in; None: the terminal's own."""
    if not sys.stdout.isatty():
        return PIPE_WIDTH
    columns = shutil.get_terminal_size().columns
    return None if columns >= MIN_WIDTH else MIN_WIDTH


def drawn(hops: Sequence[Row], title: str) -> RenderableType:
    """A table with a bar per hop, a colour per process."""
    from rich.table import Table
    from rich.text import Text

    total = max((row.start_ms + row.duration_ms for row in hops), default=0.0) or 1.0
    pids = list(dict.fromkeys(row.pid for row in hops))
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for header, justify in (("hop", "left"), ("process", "left"), ("at ms", "right"),
                            ("took ms", "right"), ("", "left")):  # fmt: skip
        table.add_column(header, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in hops:
        colour = _COLOURS[pids.index(row.pid) % len(_COLOURS)]
        table.add_row(
            "  " * row.depth + row.name,
            Text(f"{row.service} {row.pid}", style=colour),
            f"{row.start_ms:.2f}",
            f"{row.duration_ms:.2f}",
            Text(_bar(row, total), style=colour),
        )
    return table


def _bar(row: Row, total_ms: float) -> str:
    """Where in the whole the hop lies; at least one character wide."""
    start = min(BAR_CHARACTERS - 1, int(row.start_ms / total_ms * BAR_CHARACTERS))
    width = max(1, round(row.duration_ms / total_ms * BAR_CHARACTERS))
    return " " * start + "━" * min(width, BAR_CHARACTERS - start)
