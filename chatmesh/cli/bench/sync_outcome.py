"""What a run of `bench sync` or `bench push` gave. The names of `--json` are made here alone.

Rules: pure. A run passes only when nothing was lost, doubled or out of order, and no device was
left without ack and push, told twice, told after its ack or told while it was online.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.outcome import Totals


@dataclass(frozen=True, slots=True)
class PushCounts:
    """What must not be; all 0 in a good run."""

    neither: int
    """Messages that a device with a token has neither acked nor been told of."""
    visible_twice: int
    pushed_after_ack: int
    pushed_online: int


@dataclass(frozen=True, slots=True)
class Drain:
    """How a backlog went."""

    hints: int
    """Unsettled when sync_svc came back."""
    batches: int
    seconds: float
    """Until the last of them was settled."""
    queue_entries_max: int
    """Batches in the queue at once, at most."""
    unsettled_batches_max: int
    sync_memory_mib_max: float

    @property
    def hints_per_s(self) -> float:
        """Rate of the drain."""
        return round(self.hints / self.seconds, 1) if self.seconds else 0.0

    @property
    def is_storm(self) -> bool:
        """Whether the queue ever held more than twice what was unsettled."""
        return self.queue_entries_max > 2 * self.unsettled_batches_max


@dataclass(frozen=True, slots=True, kw_only=True)
class HintOutcome:
    """A whole run."""

    seconds: float
    totals: Totals
    counts: PushCounts
    hints: float
    """Settled within the measured time: taken by nodes, or committed as jobs."""
    pushes: int
    """Visible notifications within the measured time."""
    pushes_in_all: int
    after_accepted: Histogram
    push_after_accepted: Histogram
    memory_mib: Mapping[str, float]
    settings: Mapping[str, Any]
    drain: Drain | None = None

    @property
    def passed(self) -> bool:
        """Whether all that was promised held, and there was something to see."""
        totals = self.totals
        bad = totals.lost or totals.duplicated or totals.out_of_order
        bad = bad or any(asdict(self.counts).values())
        bad = bad or (self.drain is not None and self.drain.is_storm)
        return not bad and (totals.delivered_in_all > 0 or self.pushes_in_all > 0)

    def to_json(self) -> dict[str, Any]:
        """The last line of `--json`."""
        made: dict[str, Any] = {
            "hints_per_s": round(self.hints / self.seconds, 1),
            "pushes_per_s": round(self.pushes / self.seconds, 1),
            "accepted_to_stream_ms": self.after_accepted.summary_ms(),
            "accepted_to_push_ms": self.push_after_accepted.summary_ms(),
            "delivered": self.totals.delivered,
            "pushed": self.pushes_in_all,
            "lost": self.totals.lost,
            "duplicated": self.totals.duplicated,
            "out_of_order": self.totals.out_of_order,
            **asdict(self.counts),
            "memory_mib": dict(self.memory_mib),
            "settings": dict(self.settings),
        }
        if self.drain is not None:
            made["drain"] = {**asdict(self.drain), "hints_per_s": self.drain.hints_per_s}
        return made

    def lines(self) -> list[str]:
        """The same for a person."""
        result = self.to_json()
        stream, push = result["accepted_to_stream_ms"], result["accepted_to_push_ms"]
        rates = f"{result['hints_per_s']:,.0f} hints/s, {result['pushes_per_s']:,.0f} pushes/s"
        lines = [
            f"{rates} in {self.seconds:g} s",
            f"accepted to recipient's stream: {_times(stream)}, {result['delivered']:,} messages",
            f"accepted to the notification: {_times(push)}, {result['pushed']:,} notifications",
        ]
        if self.drain is not None:
            drain = self.drain
            lines.append(
                f"backlog: {drain.hints:,} hints in {drain.batches:,} batches drained in "
                f"{drain.seconds:.1f} s ({drain.hints_per_s:,.0f}/s); the queue held at most "
                f"{drain.queue_entries_max:,} batches, sync at most "
                f"{drain.sync_memory_mib_max:,.0f} MiB"
            )
        checks = ("lost", "duplicated", "out_of_order", *asdict(self.counts))
        lines.append(", ".join(f"{result[name]} {name.replace('_', ' ')}" for name in checks))
        return lines


def _times(summary: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g} ms" for name, value in summary.items() if name != "p90")
