"""Commands of a random run: flat lists of small values that mean something in any order, so that a
failing list can be cut down to the few commands that still fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

SAYS: Final = {
    "text": 60,
    "edit": 12,
    "delete": 8,
    "reaction": 10,
    "the same key on two nodes": 12,
    "an old key again": 8,
    "other content under an old key": 5,
}
"""Messages → how many of 200 steps. Those that follow each other are under way together."""
CHANGES: Final = {
    "add": 18,
    "remove": 8,
    "leave": 4,
    "block": 6,
    "unblock": 6,
    "read": 12,
    "device goes": 8,
    "device comes back": 8,
    "device comes back with an older cursor": 6,
    "new device": 4,
    "removal races sends": 6,
    "guest comes or goes": 6,
}
"""What is done while no message is under way, but for races, which bring their own."""
FAULTS: Final = (
    "clients cut",
    "answers cut",
    "PostgreSQL connections killed",
    "node killed",
    "sync killed",
    "sync paused",
    "push killed",
    "presence killed",
    "Valkey killed and emptied",
)
"""What breaks while messages are under way; hints are mistreated all along."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command. Numbers are taken modulo what there is when it is run."""

    kind: str
    one: int
    other: int
    third: int


def plan(seed: int, count: int, *, faults: int = 1) -> list[Step]:
    """About `count` steps, each fault so often; the same for the same seed.

    Every kind is in any plan of 100 steps or more.
    """
    random = Random(seed)
    shares = {**SAYS, **CHANGES}
    kinds = [
        kind
        for kind, share in shares.items()
        for _ in range(max(2, round(share * count / sum(shares.values()))))
    ]
    random.shuffle(kinds)
    for fault in FAULTS * faults:
        # after a message: faults come while something is under way
        at = random.randrange(len(kinds) // 8, len(kinds))
        kinds[at:at] = ["text", fault, "text"]
    numbers = range(1 << 16)
    return [Step(kind, *random.sample(numbers, 3)) for kind in kinds]


async def smallest(
    steps: Sequence[Step], fails: Callable[[Sequence[Step]], Awaitable[bool]]
) -> list[Step]:
    """A list that still fails and from which no part can be left out (ddmin, Zeller 1999)."""
    left, parts = list(steps), 2
    while len(left) > 1:
        size = -(-len(left) // parts)
        for at in range(0, len(left), size):
            fewer = left[:at] + left[at + size :]
            if await fails(fewer):
                left, parts = fewer, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(left))
    return left
