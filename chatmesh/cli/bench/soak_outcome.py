"""What `bench soak` is asked, and what it gave. The names of `--json` are made here alone.

Rules: pure. Slopes are an hour's, by least squares over the slices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.meter import Usage
from chatmesh.cli.bench.outcome import Totals
from chatmesh.cli.bench.result import Result
from chatmesh.cli.bench.trend import last_over_first, slope_per_hour


@dataclass(frozen=True, slots=True)
class SoakLoad:
    """What is asked."""

    pairs: int
    rate: float | None
    """Messages a second over all pairs; None: half of the peak."""
    size_bytes: int
    minutes: float
    warmup_seconds: float
    slice_seconds: float
    peak_seconds: float
    """How long the peak is looked for, when there is no rate."""
    processes: int = 1


@dataclass(slots=True)
class Slices:
    """What the slices showed, in their order."""

    p99_ms: list[float] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    memory_mib: list[Mapping[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Soaked:
    """What came of the steady load."""

    totals: Totals
    histogram: Histogram
    slices: Slices
    usage: Usage
    upkeep: Mapping[str, Any]


def result_of(
    load: SoakLoad,
    chat_nodes: int,
    rate: float,
    peak: float | None,
    soaked: Soaked,
    settings: Mapping[str, Any],
) -> Result:
    """Names of `--json`."""
    totals, slices, step = soaked.totals, soaked.slices, load.slice_seconds
    memory = {
        name: [one.get(name, 0.0) for one in slices.memory_mib]
        for name in soaked.usage.memory_mib
        if name != "client"
    }
    figures = {
        "rate": round(rate, 1),
        "peak_per_s": peak,
        "delivered": totals.delivered,
        "delivered_per_s": round(totals.delivered / (load.minutes * 60), 1),
        "lost": totals.lost,
        "duplicated": totals.duplicated,
        "out_of_order": totals.out_of_order,
        "latency_ms": soaked.histogram.summary_ms(),
        "cpu_s_per_1000": soaked.usage.cpu_s_per_1000(totals.delivered),
        "memory_mib": dict(soaked.usage.memory_mib),
        "memory_mib_per_hour": {
            name: round(slope_per_hour(values, step), 2) for name, values in memory.items()
        },
        "memory_last_over_first": {
            name: _rounded(last_over_first(values)) for name, values in memory.items()
        },
        "p99_ms_per_hour": round(slope_per_hour(slices.p99_ms, step), 3),
        "p99_last_over_first": _rounded(last_over_first(slices.p99_ms)),
        "upkeep": dict(soaked.upkeep),
        "slices": {
            "seconds": step, "p99_ms": slices.p99_ms, "messages": slices.messages,
            "memory_mib": memory,
        },
        "settings": dict(settings),
    }  # fmt: skip
    bad = totals.lost or totals.duplicated or totals.out_of_order
    return Result(
        kind="soak",
        load={**dataclasses.asdict(load), "rate": round(rate, 1), "chat_nodes": chat_nodes},
        figures=figures,
        headline=f"{load.minutes:g} minutes at {rate:,.0f} messages/s, "
        f"{len(slices.p99_ms)} slices of {step:g} s",
        lines=_lines(figures),
        histogram=soaked.histogram,
        passed=totals.delivered > 0 and bool(slices.p99_ms) and not bad,
        failure="the run failed: see what was lost, duplicated or out of order above",
    )


def _lines(figures: Mapping[str, Any]) -> list[str]:
    """For a person: what each slice and each service was like."""
    latency, upkeep = figures["latency_ms"], figures["upkeep"]
    cost = figures["cpu_s_per_1000"]["mesh_total"]
    lines = [
        (
            f"{figures['delivered']:,} delivered, p50 {latency['p50']:g} ms, "
            f"p99 {latency['p99']:g} ms, {cost:g} CPU-seconds per 1,000"
        ),
        "p99 by slice: " + ", ".join(f"{value:g} ms" for value in figures["slices"]["p99_ms"]),
        (
            f"p99 at the end over the beginning: {figures['p99_last_over_first']}; "
            f"{figures['p99_ms_per_hour']:+g} ms an hour"
        ),
    ]
    for name, slope in figures["memory_mib_per_hour"].items():
        held = figures["slices"]["memory_mib"][name]
        if held:
            lines.append(
                f"{name}: {held[0]:g} to {held[-1]:g} MiB, {slope:+g} MiB an hour, end over "
                f"beginning {figures['memory_last_over_first'][name]}"
            )
    ordered = ", ".join(upkeep["ordered"]) or "none of it"
    lines.append(
        f"{upkeep['checkpoints']} checkpoints, {upkeep['tables_vacuumed']} tables vacuumed "
        f"(ordered: {ordered})"
    )
    return lines


def _rounded(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio, 3)
