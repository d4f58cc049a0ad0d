"""A circuit per provider: one that keeps failing is left alone for a while. Pure."""

from dataclasses import dataclass

FAILURES_TO_OPEN = 5
"""In a row; single failures are retried on their own."""
OPEN_FIRST_SECONDS = 2.0
OPEN_MAX_SECONDS = 60.0


@dataclass(slots=True)
class Circuit:
    """Closed: requests go out. Open: none until `_until`. Then one is tried (half-open)."""

    _failures: int = 0
    _open_seconds: float = OPEN_FIRST_SECONDS
    _until: float = 0.0
    _probing: bool = False

    def closed_for(self, now_seconds: float) -> float:
        """Seconds for which nothing may be sent (0 = send). Monotonic seconds.

        After an open time one request may go, and until its outcome no other.
        """
        if self._failures < FAILURES_TO_OPEN:
            return 0.0
        if now_seconds < self._until:
            return self._until - now_seconds
        return self._open_seconds if self._probing else 0.0

    def sending(self, now_seconds: float) -> None:
        """A request goes out."""
        if self._failures >= FAILURES_TO_OPEN and now_seconds >= self._until:
            self._probing = True

    def worked(self) -> None:
        """The provider answered, whatever it said of the request."""
        self._failures = 0
        self._open_seconds = OPEN_FIRST_SECONDS
        self._probing = False

    def failed(self, now_seconds: float) -> None:
        """The provider did not answer, or said that it cannot."""
        self._failures += 1
        if self._failures < FAILURES_TO_OPEN:
            return
        if self._probing:
            self._open_seconds = min(self._open_seconds * 2, OPEN_MAX_SECONDS)
        self._probing = False
        self._until = now_seconds + self._open_seconds
