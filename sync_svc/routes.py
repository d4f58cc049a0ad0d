"""Where accounts are: presence asked once for a whole gathering of hints.

Role: one LookupSessionsStream call per gathering; what presence said moments ago is not asked
again.
Rules: only positive answers are remembered, and for milliseconds: a route that is gone heals by the
node's refusal, a believed absence would push somebody who is online. An account that a node denied
is forgotten at once. Presence away is the caller's to wait out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from chatmesh.mesh.v1.presence_pb2 import LookupSessionsRequest, LookupSessionsResponse
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.readiness import Component
from chatmesh.runtime.streams import RequestStream
from sync_svc.plan import Routes, routes_by_account

MAX_ACCOUNTS: Final = 10_000
"""Of one request, as the contract says."""
MAX_REMEMBERED: Final = 50_000
MAX_TARGETS: Final = 10_000
LOOKUP_SECONDS: Final = 2.0
MAX_IN_FLIGHT: Final = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """Routes by account, and whether absence means anything."""

    routes: dict[int, Routes]
    unknown: bool
    refused: frozenset[int] = frozenset()
    """Accounts that presence takes for malformed."""


class RouteBook:
    """See the module's text. Its `stream` must be running."""

    def __init__(
        self,
        open: Callable[[], Any],  # noqa: A002 - it opens the stream
        *,
        cache_ms: int,
        clock: Clock,
        readiness: Component,
    ) -> None:
        self.stream: RequestStream[LookupSessionsRequest, LookupSessionsResponse] = RequestStream(
            open, name="presence", max_in_flight=MAX_IN_FLIGHT, readiness=readiness
        )
        self._cache_seconds = cache_ms / 1000
        self._clock = clock
        self._remembered: dict[int, tuple[Routes, float]] = {}  # until when it is believed
        self._targets: dict[int, str] = {}

    def target_of(self, node_id: int) -> str:
        """gRPC target of a node that presence named; "" for an unknown one."""
        return self._targets.get(node_id, "")

    def distrust(self, account_id: int) -> None:
        """A node denied what was believed of this account."""
        self._remembered.pop(account_id, None)

    async def look_up(
        self, accounts: Iterable[int], *, fresh: Iterable[int] = (), trace_context: bytes = b""
    ) -> Answer:
        """Routes of all `accounts` and of all `fresh`, about which presence is asked in any case.

        Raises Fault UNAVAILABLE PEER_TIMEOUT when presence does not answer.
        """
        now = self._clock.monotonic()
        found: dict[int, Routes] = {}
        ask = dict.fromkeys(fresh)
        for account_id in accounts:
            known = self._remembered.get(account_id)
            if known is None or known[1] <= now:
                ask[account_id] = None
            elif account_id not in ask:
                found[account_id] = known[0]
        asked, refused = list(ask), set[int]()
        unknown = False
        for start in range(0, len(asked), MAX_ACCOUNTS):
            unknown |= await self._ask(
                asked[start : start + MAX_ACCOUNTS], trace_context, found, refused
            )
        return Answer(found, unknown, frozenset(refused))

    async def _ask(
        self, accounts: list[int], trace_context: bytes, found: dict[int, Routes], refused: set[int]
    ) -> bool:
        """Ask about accounts; whether the answer is `unknown`. One that presence refuses is found
        by halving, so that it does not hold back the others for ever."""
        try:
            response = await self.stream.call(
                LookupSessionsRequest(account_ids=accounts, trace_context=trace_context),
                timeout_seconds=LOOKUP_SECONDS,
            )
        except Fault as fault:
            if fault.code is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            if len(accounts) == 1:
                refused.add(accounts[0])
                return False
            middle = len(accounts) // 2
            halves = (accounts[:middle], accounts[middle:])
            answers = [await self._ask(half, trace_context, found, refused) for half in halves]
            return any(answers)
        found |= self._take_in(response)
        return response.unknown

    def _take_in(self, response: LookupSessionsResponse) -> dict[int, Routes]:
        if len(self._targets) > MAX_TARGETS:
            self._targets.clear()  # ids of dead nodes; the living are named again
        for node in response.nodes:
            self._targets[node.node_id] = node.target
        found = routes_by_account(
            (
                account.account_id,
                [(route.node_id, route.device_id) for route in account.routes],
            )
            for account in response.accounts
        )
        if self._cache_seconds:
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.clear()
            until = self._clock.monotonic() + self._cache_seconds
            for account_id, routes in found.items():
                if routes.nodes:
                    self._remembered[account_id] = (routes, until)
        return found
