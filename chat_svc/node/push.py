"""Devices handed over to push_svc, and jobs voided by acks.

A hand-over is done when push_svc has answered: then the job is committed there. Until then it waits
here, the newest position per device, and is sent again over each new stream. Should this node die
meanwhile, the device row in PostgreSQL still names it, and the reaper of another node hands over.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from chat_svc.node.counters import NodeCounters
from chatmesh import errors
from chatmesh.mesh.v1.push_pb2 import (
    CancelRequest,
    CancelResponse,
    CancelTarget,
    PushRequest,
    PushResponse,
    PushTarget,
)
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.readiness import Component
from chatmesh.runtime.streams import RequestStream

MAX_TARGETS: Final = 1_000
MAX_IN_FLIGHT: Final = 64
ANSWER_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 0.5
GATHER_SECONDS: Final = 0.05

DeviceKey = tuple[int, str]

_log = logger(__name__)
_budget = LogBudget(per_second=1)


@dataclass(frozen=True, slots=True)
class Owed:
    """A device that must be pushed up to a position, unless it acks."""

    account: int
    device_id: str
    timeline_seq: int
    delay_ms: int = 0
    """How long an ack may still come and make it needless."""


class PushLink:
    """The node's streams to push_svc."""

    def __init__(
        self,
        open_push: Callable[[], Any],
        open_cancel: Callable[[], Any],
        readiness: Component,
        clock: Clock,
        counters: NodeCounters,
    ) -> None:
        self._clock = clock
        self._counters = counters
        self.push_stream: RequestStream[PushRequest, PushResponse] = RequestStream(
            open_push, name="push", max_in_flight=MAX_IN_FLIGHT, readiness=readiness
        )
        self.cancel_stream: RequestStream[CancelRequest, CancelResponse] = RequestStream(
            open_cancel, name="push cancel", max_in_flight=MAX_IN_FLIGHT
        )
        self._owed: dict[DeviceKey, int] = {}
        self._void: dict[DeviceKey, int] = {}
        self._push_wake = asyncio.Event()
        self._void_wake = asyncio.Event()

    def owe(self, account: int, device_id: str, timeline_seq: int) -> None:
        """A live device did not ack in time."""
        key = (account, device_id)
        self._owed[key] = max(timeline_seq, self._owed.get(key, 0))
        self._push_wake.set()

    def void(self, account: int, device_id: str, timeline_seq: int) -> None:
        """It acked after all: jobs up to there are void."""
        key = (account, device_id)
        if self._owed.get(key, 1 << 63) <= timeline_seq:
            del self._owed[key]  # never told: nothing to void
        self._void[key] = max(timeline_seq, self._void.get(key, 0))
        self._void_wake.set()

    async def hand_over(self, owed: Iterable[Owed]) -> None:
        """Return once all these are committed jobs.

        Raises:
            Fault: push_svc did not answer, or refused; all may be handed over again.
        """
        targets = [
            PushTarget(
                account_id=one.account,
                timeline_seq=one.timeline_seq,
                device_ids=[one.device_id],
                delay_ms=one.delay_ms,
            )
            for one in owed
        ]
        for start in range(0, len(targets), MAX_TARGETS):
            request = PushRequest(targets=targets[start : start + MAX_TARGETS])
            answer = await self.push_stream.call(request, timeout_seconds=ANSWER_SECONDS)
            if answer.error_code:
                raise _refused(answer)
            self._counters.push_handovers += len(request.targets)

    async def run_handovers(self) -> None:
        """Hand over what is owed by live sessions; in the background."""
        while True:
            await self._push_wake.wait()
            await self._clock.sleep(GATHER_SECONDS)
            self._push_wake.clear()
            owed, self._owed = self._owed, {}
            try:
                await self.hand_over(
                    Owed(account, device, seq) for (account, device), seq in owed.items()
                )
            except Fault as fault:
                for key, seq in owed.items():
                    self._owed[key] = max(seq, self._owed.get(key, 0))
                if _budget.take():
                    _log.warning("devices not handed over to push yet", fault=str(fault))
                self._push_wake.set()
                await self._clock.sleep(RETRY_SECONDS)

    async def run_voids(self) -> None:
        """Void jobs of devices that acked; in the background. Best effort: push asks before it
        fires, so a lost void costs a question, no notification."""
        while True:
            await self._void_wake.wait()
            await self._clock.sleep(GATHER_SECONDS)
            self._void_wake.clear()
            void, self._void = self._void, {}
            targets = [
                CancelTarget(account_id=account, device_id=device, timeline_seq=seq)
                for (account, device), seq in void.items()
            ]
            for start in range(0, len(targets), MAX_TARGETS):
                request = CancelRequest(targets=targets[start : start + MAX_TARGETS])
                try:
                    await self.cancel_stream.call(request, timeout_seconds=ANSWER_SECONDS)
                except Fault as fault:
                    if _budget.take():
                        _log.warning("push jobs not voided", fault=str(fault))


def _refused(answer: PushResponse) -> Fault:
    return errors.BY_REASON.get(answer.error_reason, errors.NOT_SERVING)()
