"""Messages without a session: the same queue, the same commit; the call waits for its results.

The commit belongs to the node: a client that gives up changes nothing about its messages, and finds
out by sending them again under the same keys.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from chat_svc.core.batch import Chain, PendingSend, Sender
from chat_svc.core.client_frames import Refused
from chat_svc.core.closing import problem_of
from chat_svc.core.content import Checked
from chat_svc.node.committer import Committer
from chat_svc.node.opening import body_suffix
from chat_svc.store.accounts import AccountRow
from chat_svc.store.commit import EventFlag
from chatmesh.runtime.trace import current_context
from chatmesh.v1.session_pb2 import SendResult


class SentFor(Protocol):
    """Whom messages are sent for."""

    @property
    def tenant(self) -> str:
        """Name of the tenant."""
        ...

    @property
    def user(self) -> str:
        """The sender."""
        ...

    @property
    def account(self) -> AccountRow:
        """Its account."""
        ...

    @property
    def acting_user(self) -> str:
        """The back end that sends for it; empty = itself."""
        ...


class UnarySends:
    """See the module's text."""

    def __init__(self, committer: Committer, trace_of: Callable[[bytes, int], bytes]) -> None:
        """`trace_of` makes a message's first hop, of (context, Unix ns of its arrival)."""
        self._committer = committer
        self._trace_of = trace_of

    async def send(
        self, who: SentFor, outcomes: Sequence[Checked | Refused], stop_on_error: bool
    ) -> list[SendResult]:
        """One result per message, in order."""
        checked = [outcome for outcome in outcomes if isinstance(outcome, Checked)]
        answered = iter(await self._commit(who, checked, stop_on_error) if checked else ())
        return [
            next(answered)
            if isinstance(outcome, Checked)
            else SendResult(idempotency_key=outcome.key, problem=problem_of(outcome.fault))
            for outcome in outcomes
        ]

    async def _commit(
        self, who: SentFor, checked: Sequence[Checked], stop_on_error: bool
    ) -> list[SendResult]:
        received_ns = time.time_ns()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        results: dict[int, SendResult] = {}

        def answer(send: PendingSend, result: bytes, _accepted: bool) -> None:
            results[places[id(send)]] = SendResult.FromString(result)
            if len(results) == len(sends) and not done.done():
                done.set_result(None)

        sender = Sender(
            tenant=who.tenant,
            tenant_id=who.account.tenant_id,
            account=who.account.id,
            user=who.user,
            body_suffix=body_suffix(who.account, who.acting_user),
            flags=int(EventFlag.NO_SESSION),
            answer=answer,
        )
        chain = Chain() if stop_on_error else None
        of_call = current_context()
        sends = [
            PendingSend(
                sender, message, chain, self._trace_of(message.trace or of_call, received_ns)
            )
            for message in checked
        ]
        places = {id(send): place for place, send in enumerate(sends)}
        self._committer.offer(sends)
        await done
        return [results[place] for place in range(len(sends))]
