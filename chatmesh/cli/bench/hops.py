"""Where a message's time goes: the hops of sampled messages, and how much was handled at once.

Role: spans of a run → one line a hop; counters of `/metrics` before and after → sizes of batches.
A hop's `step_us` is the time since the hop before it ended, so that the steps of one message add up
to its whole way, waiting included; `own_us` is what its own span lasted (0 for a point in time).

Rules: draws nothing. Only messages that came through the whole way count, so that a run's first and
last spans, of which half is missing, distort nothing.
"""

from __future__ import annotations

import sqlite3
import statistics
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from chatmesh.runtime.metrics import BATCH_SIZE

WAY: Final = (
    "chat.receive", "chat.ids", "chat.commit", "chat.enqueue", "sync.enqueue", "sync.queue",
    "sync.lookup", "chat.deliver", "chat.write", "chat.ack",
)  # fmt: skip
"""The hops of a message to a device on another node, in its order."""
NEEDED: Final = frozenset(("chat.receive", "chat.commit", "chat.deliver", "chat.write"))
READ_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop over all sampled messages. Times in µs."""

    name: str
    service: str
    messages: int
    step_p50_us: float
    step_p99_us: float
    own_p50_us: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """What one service handled at once on one path, within the run."""

    service: str
    path: str
    batches: int
    mean: float


@dataclass(frozen=True, slots=True)
class _Point:
    name: str
    service: str
    start_ns: int
    end_ns: int


def hops(file: Path, since_ns: int, until_ns: int) -> list[Hop]:
    """The hops of messages that were received between two moments (Unix ns), in their order."""
    uri = f"file:{file}?mode=ro"
    marks = ",".join("?" * len(WAY))
    query = (
        "SELECT trace_id, name, service, start_ns, end_ns FROM span "  # noqa: S608 - only marks
        f"WHERE start_ns BETWEEN ? AND ? AND name IN ({marks})"
    )
    try:
        with closing(sqlite3.connect(uri, uri=True)) as database:
            found = database.execute(query, (since_ns, until_ns, *WAY)).fetchall()
    except sqlite3.OperationalError:
        return []  # no span was ever written
    traces: dict[str, list[_Point]] = defaultdict(list)
    for trace_id, *fields in found:
        traces[trace_id].append(_Point(*fields))
    return summed(traces.values())


def summed(traces: Iterable[Sequence[_Point]]) -> list[Hop]:
    """One line a hop, over traces that are whole."""
    steps: dict[str, list[float]] = defaultdict(list)
    own: dict[str, list[float]] = defaultdict(list)
    services: dict[str, str] = {}
    for points in traces:
        first = _first_of_each(points)
        if not first.keys() >= NEEDED:
            continue
        before = first["chat.receive"].start_ns
        for name in WAY:
            point = first.get(name)
            if point is None:
                continue
            steps[name].append(max(0, point.end_ns - before) / 1e3)
            own[name].append((point.end_ns - point.start_ns) / 1e3)
            services[name] = point.service
            before = max(before, point.end_ns)
    return [
        Hop(
            name,
            services[name],
            len(steps[name]),
            round(statistics.median(steps[name]), 1),
            round(_p99(steps[name]), 1),
            round(statistics.median(own[name]), 1),
        )
        for name in WAY
        if name in steps
    ]


def _first_of_each(points: Sequence[_Point]) -> dict[str, _Point]:
    """A message may reach several devices: the first one's way is followed."""
    found: dict[str, _Point] = {}
    for point in points:
        known = found.get(point.name)
        if known is None or point.end_ns < known.end_ns:
            found[point.name] = point
    return found


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def batch_counters(processes: Iterable[Any]) -> dict[tuple[str, str], tuple[float, float]]:
    """(service, path) → (batches, items) so far, of every process that shows metrics."""
    found: dict[tuple[str, str], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for process in processes:
        if not process.metrics:
            continue
        try:
            with urllib.request.urlopen(
                f"http://{process.metrics}/metrics", timeout=READ_SECONDS
            ) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError):
            continue
        for family in text_string_to_metric_families(text):
            if family.name == BATCH_SIZE.name:
                for sample in family.samples:
                    key = (process.service, sample.labels["path"])
                    batches, items = found[key]
                    if sample.name.endswith("_count"):
                        found[key] = (batches + sample.value, items)
                    elif sample.name.endswith("_sum"):
                        found[key] = (batches, items + sample.value)
    return dict(found)


def sizes(
    before: Mapping[tuple[str, str], tuple[float, float]],
    after: Mapping[tuple[str, str], tuple[float, float]],
) -> list[Sizes]:
    """What was handled at once between two readings."""
    made = []
    for (service, path), (batches, items) in sorted(after.items()):
        batches_before, items_before = before.get((service, path), (0.0, 0.0))
        count = batches - batches_before
        if count > 0:
            made.append(Sizes(service, path, int(count), round((items - items_before) / count, 1)))
    return made
