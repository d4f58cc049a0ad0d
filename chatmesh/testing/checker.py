"""Checks recorded histories against the promises, and shows the smallest slice that breaks one.

    I1  accepted ⇒ in the final timeline of every device of every member
    I2  a device's positions are contiguous from where it started, each once, rising
    I3  all devices of a user hold the same at the same position; a conversation has one order
    I4  one key ⇒ one message
    I5  refused ⇒ nowhere; unknown ⇒ nowhere or everywhere
    I6  nothing is delivered that was not sent, and to members at that position only
    I7  acks never fall, and are never above what the device stored
    I8  a device with a token acked or was pushed each message, visibly once, none that it acked
    I9  who is shown online was there, but for a lease; after healing what is true is shown
    I11 a device that was given time to converge has everything up to its head

Rules: pure; knows nothing of servers, SDK or time. A check never trusts an answer alone: what
counts is what devices stored. Checks live in `_checks`, `_push_checks` and
`_presence_story`; this module runs them and reports.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from chatmesh.testing import _checks as checks
from chatmesh.testing import _presence_story as presence_story
from chatmesh.testing import _push_checks as push_checks
from chatmesh.testing._index import Index
from chatmesh.testing.history import Operation


class Invariant(StrEnum):
    """Names as in the design's table."""

    I1 = "I1"
    I2 = "I2"
    I3 = "I3"
    I4 = "I4"
    I5 = "I5"
    I6 = "I6"
    I7 = "I7"
    I8 = "I8"
    I9 = "I9"
    I11 = "I11"


MEANING: Final = {
    Invariant.I1: "accepted ⇒ in every member device's final timeline",
    Invariant.I2: "each device: positions contiguous from its start, each once, rising",
    Invariant.I3: "all devices of a user equal; a conversation's order equal for all",
    Invariant.I4: "one key ⇒ one message",
    Invariant.I5: "refused ⇒ nowhere; unknown ⇒ nowhere or everywhere",
    Invariant.I6: "nothing delivered that was not sent, and to members only",
    Invariant.I7: "acks never fall, never above what the device stored",
    Invariant.I8: "each device with a token acked or was pushed; visibly once; none for acked",
    Invariant.I9: "online was true, but for a lease; after healing what is true is shown",
    Invariant.I11: "after healing every device has everything up to its head",
}

_CHECKS: Final[dict[Invariant, Callable[[Index], Iterator[checks.Finding]]]] = {
    Invariant.I1: checks.accepted_is_everywhere,
    Invariant.I2: checks.positions_are_contiguous,
    Invariant.I3: checks.devices_agree,
    Invariant.I4: checks.one_key_one_message,
    Invariant.I5: checks.refused_is_nowhere,
    Invariant.I6: checks.only_sent_only_members,
    Invariant.I7: checks.acks_are_true,
    Invariant.I8: push_checks.acked_or_pushed,
    Invariant.I9: presence_story.presence_was_true,
    Invariant.I11: checks.all_converged,
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: which, why, and the operations that show it (and no others)."""

    invariant: Invariant
    text: str
    slice: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome. `violations` holds the smallest one of each broken invariant; `found` counts
    all."""

    operations: int
    counts: dict[str, int]
    violations: tuple[Violation, ...]
    found: dict[Invariant, int]

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return not self.violations


def check(history: Iterable[Operation], only: Sequence[Invariant] = ()) -> Report:
    """Check a whole history (the operations of all its files).

    Args:
        history: each process's operations in their order; processes in any order.
        only: these invariants; empty = all.
    """
    operations = list(history)
    index = Index(operations)
    smallest: dict[Invariant, Violation] = {}
    found: Counter[Invariant] = Counter()
    for invariant, run in _CHECKS.items():
        if only and invariant not in only:
            continue
        for finding in run(index):
            found[invariant] += 1
            before = smallest.get(invariant)
            if before is None or len(finding.operations) < len(before.slice):
                smallest[invariant] = Violation(invariant, finding.text, finding.operations)
    return Report(
        operations=len(operations),
        counts=dict(Counter(one.kind for one in operations)),
        violations=tuple(smallest.values()),
        found=dict(found),
    )
