"""What a run of `bench sync` or `bench push` is asked to do.

Role: options → a checked `HintLoad`: pairs of online devices whose messages are measured from
accepted to the recipient's stream, and users who are away, whose messages are pushed.
Rules: pure. Everything impossible is refused here, before a mesh or a client is started.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from chatmesh.cli.bench.plan import MAX_PAIRS, MAX_RATE, ImpossibleLoad, Load

MAX_AWAY: Final = 20_000
MAX_BACKLOG: Final = 1_000_000
POCKET_EVERY: Final = 5
"""Every so many pairs, the recipient has a second device that is away and has a push token."""


@dataclass(frozen=True, slots=True)
class AwayLoad:
    """Messages to users of whom no device is online."""

    users: int
    rate: float
    """Messages per second over all of them, one user after the other."""

    def __post_init__(self) -> None:
        """Raises ImpossibleLoad."""
        if not 0 <= self.users <= MAX_AWAY:
            raise ImpossibleLoad(f"--away {self.users} must lie between 0 and {MAX_AWAY}")
        if self.users and not (math.isfinite(self.rate) and 0.001 <= self.rate <= MAX_RATE):
            raise ImpossibleLoad(f"--away-rate {self.rate:g} must lie between 0.001 and {MAX_RATE}")

    def to_json(self) -> dict[str, Any]:
        """For the load process."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class HintLoad:
    """One run."""

    online: Load
    away: AwayLoad
    backlog: int = 0
    """Hints that gather while sync_svc is held, before it may drain them; 0 = it runs."""

    def __post_init__(self) -> None:
        """Raises ImpossibleLoad."""
        if not 0 <= self.backlog <= MAX_BACKLOG:
            raise ImpossibleLoad(f"--backlog {self.backlog} must lie between 0 and {MAX_BACKLOG}")
        if self.online.pairs > MAX_PAIRS:
            raise ImpossibleLoad(f"--pairs {self.online.pairs} must be at most {MAX_PAIRS}")
