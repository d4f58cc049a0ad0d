"""Why sessions end, and what the client is told to do then: a table, and the frames it fills.

Pure.
"""

from dataclasses import dataclass
from typing import Final

from chatmesh.runtime.faults import Fault
from chatmesh.v1.session_pb2 import Closed, GoingAway
from chatmesh.v1.types_pb2 import Problem

Reason = Closed.Reason
Reconnect = Closed.Reconnect

_NOW: Final = Closed.RECONNECT_NOW
_AFTER: Final = Closed.RECONNECT_AFTER
_NEVER: Final = Closed.RECONNECT_NEVER

ADVICE: Final[dict[int, tuple[Reconnect.ValueType, int]]] = {
    Closed.REASON_UNSPECIFIED: (_AFTER, 1_000),
    Closed.REASON_REPLACED: (_NEVER, 0),  # two runs of one device would replace each other for ever
    Closed.REASON_REVOKED: (_NEVER, 0),
    Closed.REASON_TOKEN_EXPIRED: (_NOW, 0),  # with a fresh token; the old one is refused at once
    Closed.REASON_DRAINED: (_NOW, 0),  # another node answers
    Closed.REASON_REBALANCED: (_NOW, 0),
    Closed.REASON_TOO_SLOW: (_AFTER, 5_000),
    Closed.REASON_PROTOCOL_ERROR: (_NEVER, 0),
    Closed.REASON_CURSOR_INVALID: (_NEVER, 0),  # not before a snapshot
    Closed.REASON_IDLE: (_AFTER, 1_000),
    Closed.REASON_RATE_LIMITED: (_AFTER, 2_000),
    Closed.REASON_UNAVAILABLE: (_AFTER, 1_000),
    Closed.REASON_CLIENT_DONE: (_AFTER, 0),
    Closed.REASON_DEVICE_REFUSED: (_NEVER, 0),
}
"""Advice and milliseconds per reason."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a session ends."""

    reason: Reason.ValueType
    fault: Fault | None = None
    """Set: the stream ends with its status; else with OK."""
    reconnect_after_ms: int | None = None
    """Instead of the table's."""

    def frame(self) -> bytes:
        """The serialised Closed."""
        reconnect, after_ms = ADVICE[self.reason]
        if self.reconnect_after_ms is not None:
            after_ms = self.reconnect_after_ms
        closed = Closed(reason=self.reason, reconnect=reconnect, reconnect_after_ms=after_ms)
        if self.fault is not None:
            closed.problem.CopyFrom(problem_of(self.fault))
        return closed.SerializeToString()


def problem_of(fault: Fault) -> Problem:
    """A fault as the contract's Problem."""
    return Problem(
        code=fault.code.value[0],
        reason=fault.reason,
        message=fault.message,
        metadata=dict(fault.metadata),
        retry_after_ms=round((fault.retry_after_seconds or 0) * 1_000),
    )


def going_away_frame(reason: GoingAway.Reason.ValueType, reconnect_after_ms: int) -> bytes:
    """The serialised GoingAway."""
    return GoingAway(reason=reason, reconnect_after_ms=reconnect_after_ms).SerializeToString()
