"""Whether, when and where a client comes back after its session ended. Pure.

Rules: the server's advice first; a lost stream is tried again with full jitter, for ever; a
refusal that the same hello would only meet again ends the client, so that a person hears of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chatmesh.client import errors
from chatmesh.client._moves import Config, Ended, Next, Reconnect, TakeSnapshot
from chatmesh.client._pace import Backoff
from chatmesh.client._problem import from_problem
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1.types_pb2 import Problem

_CLOSED_FOR_GOOD: Final = {
    pb.Closed.REASON_REPLACED: errors.SessionReplaced,
    pb.Closed.REASON_REVOKED: errors.DeviceRefused,
    pb.Closed.REASON_DEVICE_REFUSED: errors.DeviceRefused,
}
_STATUS_FOR_GOOD: Final = (
    errors.PermissionDenied,
    errors.SessionEnded,
    errors.InvalidRequest,
    errors.Unsupported,
)
"""Ends of a stream that the same hello would only meet again."""


class Comeback:
    """Decides what follows the end of a stream."""

    def __init__(self, config: Config, random: Callable[[], float]) -> None:
        self._can_renew_token = config.can_renew_token
        self._backoff = Backoff(config.backoff_base_seconds, config.backoff_cap_seconds, random)
        self._token_failures = 0

    def welcomed(self) -> None:
        """A session opened: the token is good."""
        self._token_failures = 0

    def good(self) -> None:
        """A session lived for a while: the next loss is not part of a series."""
        self._backoff.good()

    def spread(self, seconds: float) -> float:
        """Advice of the server, spread over clients."""
        return self._backoff.spread(seconds)

    def soon(self) -> Next:
        """Open a session, a little later."""
        return Reconnect(self._backoff.next())

    def after_closed(self, closed: pb.Closed, moved: bool) -> Next:
        """The server said `closed`; `moved`: after this side's own half-close."""
        error = _closed_error(closed)
        match closed.reason:
            case pb.Closed.REASON_CURSOR_INVALID:
                return TakeSnapshot()
            case pb.Closed.REASON_CLIENT_DONE if moved:
                return Reconnect(0.0, elsewhere=True)
            case pb.Closed.REASON_TOKEN_EXPIRED:
                return self.after_error(error)
        if closed.reason in _CLOSED_FOR_GOOD or closed.reconnect == pb.Closed.RECONNECT_NEVER:
            return Ended(error)
        elsewhere = closed.reason in (
            pb.Closed.REASON_DRAINED, pb.Closed.REASON_REBALANCED, pb.Closed.REASON_UNAVAILABLE
        )  # fmt: skip
        if closed.reconnect == pb.Closed.RECONNECT_NOW and self._backoff.failures == 0:
            self._backoff.failures = 1
            return Reconnect(0.0, elsewhere)
        return Reconnect(self._backoff.next(closed.reconnect_after_ms / 1000), elsewhere)

    def after_error(self, error: errors.ChatmeshError | None) -> Next:
        """The stream ended without `closed`."""
        if isinstance(error, errors.AuthenticationFailed):
            self._token_failures += 1
            if not self._can_renew_token or self._token_failures > 1:
                return Ended(error)
            return Reconnect(self._backoff.next())
        if isinstance(error, _STATUS_FOR_GOOD):
            return Ended(error)
        at_least = (error.retry_after_seconds or 0.0) if error is not None else 0.0
        return Reconnect(self._backoff.next(at_least), elsewhere=True)


def _closed_error(closed: pb.Closed) -> errors.ChatmeshError:
    """What an end reason is called when it has to be raised."""
    if closed.HasField("problem"):
        made = from_problem(closed.problem)
        wanted = _CLOSED_FOR_GOOD.get(closed.reason)
        if wanted is None or isinstance(made, wanted):
            return made
    known = pb.Closed.Reason.DESCRIPTOR.values_by_number.get(closed.reason)
    name = known.name.removeprefix("REASON_") if known else "UNSPECIFIED"
    if closed.reason == pb.Closed.REASON_TOKEN_EXPIRED:
        problem = Problem(code=16, reason="TOKEN_EXPIRED", message="the token's time is over")
        return from_problem(problem)
    kind = _CLOSED_FOR_GOOD.get(closed.reason, errors.SessionEnded)
    texts = {
        errors.SessionReplaced: "the same device opened a newer session",
        errors.DeviceRefused: "this device is signed out or belongs to another account",
    }
    text = texts.get(kind, f"the server ended the session ({name})")
    return kind(text, reason=name, code="OK")
