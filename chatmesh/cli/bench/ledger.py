"""What one receiver has got of one sender: every message is checked, none is assumed.

Role: the sender numbers its messages 0, 1, 2, …; the receiver's ledger says which numbers came
twice, which came late or early, which never came.
Rules: pure. A number counts as out of order once: when something after it came first.
"""

from __future__ import annotations


class Ledger:
    """Sequence numbers of one sender, as they arrive."""

    __slots__ = ("_missing", "delivered", "duplicated", "expected", "out_of_order")

    def __init__(self) -> None:
        self.expected = 0
        """The number that comes next when all is well."""
        self.delivered = 0
        """Distinct numbers that came."""
        self.duplicated = 0
        self.out_of_order = 0
        self._missing: set[int] = set()

    def receive(self, number: int) -> bool:
        """Take one arrival; False when it came before (a duplicate)."""
        if number == self.expected:
            self.expected = number + 1
        elif number > self.expected:
            self.out_of_order += number - self.expected
            self._missing.update(range(self.expected, number))
            self.expected = number + 1
        elif number in self._missing:
            self._missing.remove(number)
        else:
            self.duplicated += 1
            return False
        self.delivered += 1
        return True

    def lost(self, sent: int) -> int:
        """How many of the numbers 0 to sent − 1 have not come."""
        return sent - self.delivered
