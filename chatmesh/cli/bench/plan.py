"""What a run of `bench messages` is asked to do, and whether it can be done at all.

Role: options → a checked `Load`; pairs → who is where.
Rules: pure. Everything impossible is refused here, before a mesh or a client is started; what
depends on the limits of a running mesh is checked by `refuse_by_limits` before the first message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from chatmesh.cli.bench.payload import LARGEST_TEXT, STAMP_CHARACTERS
from chatmesh.limits import BY_NAME

MAX_PAIRS: Final = 20_000
MAX_SECONDS: Final = 24 * 3600
MAX_RATE: Final = 1_000_000
"""Messages per second: beyond what any single machine's client can offer."""
MAX_PROCESSES: Final = 64
MAX_CHAT_NODES: Final = 64


class ImpossibleLoad(ValueError):
    """The load cannot be; the text says which option and what would be possible."""


@dataclass(frozen=True, slots=True)
class Load:
    """One load. Exactly one of `window` and `rate` is set."""

    pairs: int
    window: int | None
    """Undelivered messages that each pair keeps under way."""
    rate: float | None
    """Messages per second over all pairs, sent at intended times whatever comes back."""
    size_bytes: int
    seconds: float
    warmup_seconds: float
    processes: int = 1
    messages: int | None = None
    """Messages of each pair, instead of a time: for runs that count and do not time."""
    ack_ms: int = 100
    """A device acks at the latest so long after it stored an entry, at once after 64 entries."""

    def __post_init__(self) -> None:
        """Raises ImpossibleLoad."""
        _between("--pairs", self.pairs, 1, MAX_PAIRS)
        _between("--size", self.size_bytes, STAMP_CHARACTERS, BY_NAME["max_content_bytes"].high)
        _between("--seconds", self.seconds, 0.1, MAX_SECONDS)
        _between("--warmup", self.warmup_seconds, 0, MAX_SECONDS)
        _between("--processes", self.processes, 1, min(MAX_PROCESSES, self.pairs))
        _between("--ack-ms", self.ack_ms, 1, 1_000 * BY_NAME["ack_timeout_seconds"].low)
        if (self.window is None) == (self.rate is None):
            raise ImpossibleLoad("give one of --window (as fast as it goes) and --rate")
        if self.window is not None:
            _between("--window", self.window, 1, BY_NAME["max_sends_in_flight"].high)
        if self.rate is not None:
            _between("--rate", self.rate, 0.001, MAX_RATE)
            if self.rate * self.seconds < 1:
                raise ImpossibleLoad(
                    f"--rate {self.rate:g} for --seconds {self.seconds:g} sends nothing: "
                    "raise one of them"
                )
        if self.messages is not None:
            _between("messages", self.messages, 1, 1 << 32)

    def to_json(self) -> dict[str, Any]:
        """For the load process and for saved runs."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Load:
        """What `to_json` wrote. Raises ImpossibleLoad, TypeError."""
        return cls(**content)


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """One device: who, and where it connects."""

    user: str
    device_id: str
    token: str
    target: str


@dataclass(frozen=True, slots=True)
class PairPlan:
    """One sender and one receiver. `number` tells pairs apart over all load processes."""

    number: int
    sender: DevicePlan
    receiver: DevicePlan


def user_names(run: str, pairs: int) -> list[tuple[str, str]]:
    """(sender, receiver) of each pair; new users in each run, so that runs do not meet."""
    return [(f"bench-{run}-s{n}", f"bench-{run}-r{n}") for n in range(pairs)]


def place_pairs(
    names: Sequence[tuple[str, str]], tokens: Mapping[str, str], targets: Sequence[str]
) -> list[PairPlan]:
    """Spread the pairs over the chat nodes: the receiver of each is on another than its sender."""
    placed = []
    for number, (sender, receiver) in enumerate(names):
        here = number % len(targets)
        there = (here + 1) % len(targets)
        placed.append(
            PairPlan(
                number,
                DevicePlan(sender, "bench", tokens[sender], targets[here]),
                DevicePlan(receiver, "bench", tokens[receiver], targets[there]),
            )
        )
    return placed


def refuse_by_limits(load: Load, limits: Mapping[str, int]) -> None:
    """Compare a load with the limits in force (`Welcome.limits`). Raises ImpossibleLoad."""
    largest = limits["max_content_bytes"]
    if load.size_bytes > largest:
        raise ImpossibleLoad(
            f"--size {load.size_bytes}: this mesh takes at most {largest} bytes "
            "(CHATMESH_LIMIT_MAX_CONTENT_BYTES)"
        )
    if load.window is not None and load.window > limits["max_sends_in_flight"]:
        raise ImpossibleLoad(
            f"--window {load.window}: this mesh lets a session have at most "
            f"{limits['max_sends_in_flight']} sends open (CHATMESH_LIMIT_MAX_SENDS_IN_FLIGHT)"
        )
    if load.rate is not None:
        per_pair = load.rate / load.pairs
        frames = limits["frames_per_second"]
        if per_pair > frames * limits["max_send_batch"]:
            raise ImpossibleLoad(
                f"--rate {load.rate:g} over {load.pairs} pairs is {per_pair:g}/s a session: this "
                f"mesh takes {frames} frames/s of at most {limits['max_send_batch']} messages"
            )


def _between(option: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise ImpossibleLoad(f"{option} {value:g} must lie between {low:g} and {high:g}")


def is_text(size_bytes: int) -> bool:
    """Whether a body of this size travels as text; larger ones are data."""
    return size_bytes <= LARGEST_TEXT
