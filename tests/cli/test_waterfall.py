"""Spans as a tree with bars."""

from __future__ import annotations

import io

from rich.console import Console

from chatmesh.cli.waterfall import drawn, rows
from chatmesh.embedded.spans import Span


def span(
    name: str, span_id: str, parent: str, start_ms: float, end_ms: float, pid: int = 1
) -> Span:
    return Span(
        trace_id="t",
        span_id=span_id,
        parent_id=parent,
        name=name,
        service=f"svc{pid}",
        pid=pid,
        start_ns=int(start_ms * 1e6),
        end_ns=int(end_ms * 1e6),
    )


SPANS = [
    span("deliver", "d", "b", 14, 20, 3),
    span("commit", "b", "a", 11, 13),
    span("receive", "a", "root", 10, 13),
    span("store", "c", "root", 19, 20, 2),
    span("ids", "e", "a", 10, 11),
]


def test_children_stand_below_their_parent_by_start() -> None:
    found = [(row.name, row.depth, row.start_ms, row.duration_ms) for row in rows(SPANS)]
    assert found == [
        ("receive", 0, 0, 3),
        ("ids", 1, 0, 1),
        ("commit", 1, 1, 2),
        ("deliver", 2, 4, 6),
        ("store", 0, 9, 1),
    ]


def test_circles_and_nothing_do_no_harm() -> None:
    assert rows([]) == []
    circle = [span("x", "x", "y", 0, 1), span("y", "y", "x", 0, 1), span("top", "t", "", 0, 1)]
    assert [row.name for row in rows(circle)] == ["top"]


def test_every_hop_has_a_bar_in_its_place() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(drawn(rows(SPANS), "title"))
    lines = out.getvalue().splitlines()
    assert lines[0].strip() == "title"
    bars = {line.split()[0]: line.index("━") for line in lines[2:]}
    assert bars["receive"] < bars["commit"] < bars["deliver"] < bars["store"]
