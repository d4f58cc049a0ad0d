"""What a drill gave, and whether it passed. The names of `--json` are made here.

Rules: pure. A gap in delivery is the time between two arrivals at one receiver whose sender speaks
at fixed times; it belongs to the replacement during which it ended or went on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

MAX_DRAINED_GAP_MS: Final = 1_000.0
NODE_LEASE_MS: Final = 10_000.0
"""Default of CHATMESH_PRESENCE_LEASE_SECONDS."""
MAX_KILLED_GAP_MS: Final = NODE_LEASE_MS + 5_000.0
MIN_SENT_SHARE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked. `rate` is messages a second over all pairs."""

    kind: Literal["rolling", "kill"]
    pairs: int
    rate: float

    @property
    def max_gap_ms(self) -> float:
        """The longest gap that passes."""
        return MAX_DRAINED_GAP_MS if self.kind == "rolling" else MAX_KILLED_GAP_MS


@dataclass(frozen=True, slots=True)
class Replacement:
    """One process replaced. Times on CLOCK_MONOTONIC."""

    name: str
    service: str
    begin_ns: int
    ready_ns: int
    """Its successor serves."""
    settled_ns: int
    """Every receiver is up to date again."""

    def to_json(self) -> dict[str, Any]:
        """Seconds count from the signal."""
        return {
            "name": self.name,
            "ready_seconds": round((self.ready_ns - self.begin_ns) / 1e9, 2),
            "settled_seconds": round((self.settled_ns - self.begin_ns) / 1e9, 2),
        }


@dataclass(slots=True)
class Traffic:
    """What the clients counted, over all of them."""

    sent: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    errors: list[str] = field(default_factory=list)
    """What the SDK raised, to senders or to receivers."""
    reconnects: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """(from, to) of each gap longer than a pair's own rhythm."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole drill. `seconds` is the time in which the replacements happened."""

    plan: Plan
    traffic: Traffic
    replacements: Sequence[Replacement]
    seconds: float

    @property
    def planned(self) -> int:
        """Messages that should have been sent meanwhile."""
        return int(self.plan.rate * self.seconds)

    def longest_gap_ms(self) -> dict[str, float]:
        """By service; 0 where delivery never paused longer than a pair's own rhythm."""
        longest: dict[str, float] = {}
        for one in self.replacements:
            during = [
                to_ns - from_ns
                for from_ns, to_ns in self.traffic.gaps
                if from_ns < one.settled_ns and to_ns > one.begin_ns
            ]
            gap_ms = max(during, default=0) / 1e6
            longest[one.service] = round(max(longest.get(one.service, 0.0), gap_ms), 1)
        return longest

    def counting_faults(self) -> list[str]:
        """What is wrong whatever the machine's speed."""
        traffic = self.traffic
        return [
            f"{count} {what}"
            for count, what in (
                (traffic.lost, "lost"),
                (traffic.duplicated, "duplicated"),
                (traffic.out_of_order, "out of order"),
                (len(traffic.errors), "errors shown by the SDK"),
            )
            if count
        ]

    def faults(self) -> list[str]:
        """Everything that keeps the drill from passing; empty when it passed."""
        found = self.counting_faults()
        found += [
            f"delivery paused {gap_ms:,.0f} ms while {service} was replaced "
            f"(at most {self.plan.max_gap_ms:,.0f})"
            for service, gap_ms in self.longest_gap_ms().items()
            if gap_ms > self.plan.max_gap_ms
        ]
        if self.traffic.sent < MIN_SENT_SHARE * self.planned:
            found.append(f"only {self.traffic.sent} of {self.planned} planned messages were sent")
        if not self.replacements:
            found.append("nothing was replaced")
        return found

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong."""
        return not self.faults()

    def to_json(self) -> dict[str, Any]:
        """The line of `--json`."""
        traffic = self.traffic
        return {
            "kind": self.plan.kind,
            "sent": traffic.sent,
            "planned": self.planned,
            "lost": traffic.lost,
            "duplicated": traffic.duplicated,
            "out_of_order": traffic.out_of_order,
            "errors": len(traffic.errors),
            "error_texts": traffic.errors[:20],
            "reconnects": traffic.reconnects,
            "longest_gap_ms": self.longest_gap_ms(),
            "seconds": round(self.seconds, 1),
            "replaced": [one.to_json() for one in self.replacements],
            "passed": self.passed,
        }
