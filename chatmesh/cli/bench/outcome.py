"""What a run gave: counts, latencies, cost. The names of `--json` are made here and nowhere else.

Rules: pure. A run passes only when nothing was lost, doubled or out of order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chatmesh.cli.bench.hops import Hop, Sizes
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.plan import Load
from chatmesh.cli.bench.result import Result


@dataclass(slots=True)
class Totals:
    """Counts of one load process, or of all together."""

    sent: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    delivered: int = 0
    """Within the measured time."""
    delivered_in_all: int = 0
    """Warm-up and the first message of each pair included."""

    @classmethod
    def sum(cls, parts: Sequence[Totals]) -> Totals:
        """All parts together."""
        return cls(
            *(
                sum(getattr(part, name) for part in parts)
                for name in ("sent", "lost", "duplicated", "out_of_order", "delivered",
                             "delivered_in_all")
            )
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A whole run. CPU in seconds within the measured time, bytes over the whole load."""

    load: Load
    totals: Totals
    histogram: Histogram
    services: Sequence[str]
    """Names of the mesh's parts in `cpu_s` and `memory_mib`; the load is `client`."""
    cpu_s: Mapping[str, float]
    memory_mib: Mapping[str, float]
    database_bytes: int
    wal_bytes: int
    wal_fsyncs: int | None
    settings: Mapping[str, Any]
    hops: Sequence[Hop] = ()
    sizes: Sequence[Sizes] = ()
    """Where the time went, and what was handled at once; only of a run that was asked for it."""

    @property
    def passed(self) -> bool:
        """Whether every message was delivered once and in order, and there were any."""
        totals = self.totals
        return totals.delivered > 0 and not (
            totals.lost or totals.duplicated or totals.out_of_order
        )

    def result(self, chat_nodes: int) -> Result:
        """In the form that all kinds share."""
        return Result(
            kind="messages",
            load={**self.load.to_json(), "chat_nodes": chat_nodes},
            figures=self.to_json(),
            histogram=self.histogram,
            passed=self.passed,
            failure="the run failed: see what was lost, duplicated or out of order above",
        )

    def to_json(self) -> dict[str, Any]:
        """The last line of `bench messages --json`."""
        totals = self.totals
        written = max(1, totals.delivered_in_all - self.load.pairs)
        result = {
            "delivered": totals.delivered,
            "delivered_per_s": round(totals.delivered / self.load.seconds, 1),
            "lost": totals.lost,
            "duplicated": totals.duplicated,
            "out_of_order": totals.out_of_order,
            "latency_ms": self.histogram.summary_ms(),
            "cpu_s_per_1000": self._cpu_per_1000(),
            "memory_mib": dict(self.memory_mib),
            "pg_bytes_per_message": round(self.database_bytes / written),
            "wal_bytes_per_message": round(self.wal_bytes / written),
            "settings": {**self.settings, "wal_fsyncs": self.wal_fsyncs},
        }
        if self.hops or self.sizes:
            result["profile"] = {
                "hops": [asdict(hop) for hop in self.hops],
                "batches": [asdict(size) for size in self.sizes],
            }
        return result

    def _cpu_per_1000(self) -> dict[str, float | None]:
        thousands = self.totals.delivered / 1000
        cost: dict[str, float | None] = {
            name: _rounded(cpu, thousands) for name, cpu in self.cpu_s.items() if name != "client"
        }
        for store in ("postgres", "redis"):
            cost.setdefault(store, None)  # a server of yours: its processes are not ours to see
        mesh = sum(self.cpu_s[name] for name in self.services)
        cost["mesh_total"] = _rounded(mesh, thousands)
        cost["client"] = _rounded(self.cpu_s["client"], thousands)
        return cost


def _rounded(cpu_s: float, thousands: float) -> float | None:
    return round(cpu_s / thousands, 4) if thousands else None
