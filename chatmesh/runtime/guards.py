"""The guards in front of handlers: bearer identity, mesh callers, readiness."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from chatmesh.runtime import callers, identity
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.identity import TokenVerifier
from chatmesh.runtime.interceptors import Context
from chatmesh.runtime.readiness import Readiness

AUTHORIZATION = "authorization"


class IdentityGuard:
    """Public face: every call shows a token; `current_identity()` is set for the handler."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier

    async def admit(self, method: str, context: Context) -> None:
        """Raises Fault UNAUTHENTICATED with a TOKEN_… reason."""
        values = [
            value for key, value in context.invocation_metadata() or () if key == AUTHORIZATION
        ]
        try:
            token = identity.bearer_token(values)
        except Fault as fault:
            self._verifier.on_refused("", fault.reason)
            raise
        identity.set_current_identity(await self._verifier.verify(token))


class CallerGuard:
    """Mesh face: only the callers that the contract names; `current_caller()` is set."""

    def __init__(self, allowed: Mapping[str, frozenset[str]], *, mutual_tls: bool) -> None:
        self._allowed = allowed
        self._mutual_tls = mutual_tls

    async def admit(self, method: str, context: Context) -> None:
        """Raises Fault UNAUTHENTICATED CALLER_UNKNOWN or PERMISSION_DENIED CALLER_NOT_ALLOWED."""
        caller = callers.caller_of(context, mutual_tls=self._mutual_tls)
        callers.check_caller(method, caller, self._allowed)
        callers.set_current_caller(caller)


class ReadinessGuard:
    """Both faces: no new call while something is missing; open streams go on."""

    def __init__(self, readiness: Readiness, ungated: Collection[str] = ()) -> None:
        self._readiness = readiness
        self._ungated = frozenset(ungated)

    async def admit(self, method: str, context: Context) -> None:
        """Raises Fault UNAVAILABLE NOT_SERVING naming what is missing."""
        if method not in self._ungated:
            self._readiness.check()
