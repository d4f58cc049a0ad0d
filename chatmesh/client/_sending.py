"""Sending. Part of `Client`.

Rules: a message is in the store before it may leave; messages offered in one order are stored and
sent in it; nothing is sent whose `send` was cancelled before it was stored.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import cast

from chatmesh.client import _content as c
from chatmesh.client import _convert as convert
from chatmesh.client import _values as v
from chatmesh.client._caller import Caller
from chatmesh.client._hub import Hub
from chatmesh.client._outbox import Store, StoredMessage
from chatmesh.client._runner import Runner
from chatmesh.client._sendqueue import ALONE, Outgoing
from chatmesh.client._session import FRAME_HEADROOM_BYTES, Session
from chatmesh.client._storekeeper import Storekeeper
from chatmesh.client.errors import ChatmeshError, ClientClosed, InvalidRequest


class Sending(Caller):
    """`send` and its kin."""

    _session: Session
    _store: Store
    _keeper: Storekeeper
    _hub: Hub
    _runner: Runner

    def _check_open(self) -> None:
        raise NotImplementedError

    def _check_started(self) -> None:
        raise NotImplementedError

    def new_key(self) -> bytes:
        """A key for `Message.key`, by the server's time: for an application that shows a message
        before it is answered, and knows its entry by `Event.key`."""
        return self._new_key()

    def unanswered(self) -> list[c.Message]:
        """Messages without an answer, earlier runs' included, in the order in which they go."""
        self._check_started()
        return [convert.offered(one.message) for one in self._session.queue.in_order()]

    async def send(
        self,
        *,
        to_user: str | None = None,
        conversation_id: int | None = None,
        text: str | None = None,
        content: c.Sendable | None = None,
        reply_to: int = 0,
        silent: bool = False,
        metadata: Mapping[str, str] | None = None,
        traceparent: str = "",
        key: bytes | None = None,
    ) -> v.Sent:
        """Send one message and return when it is durable; `Message` says what each field means.

        Cancelling the wait does not take the message back: its answer comes as `SendSettled`.

        Raises:
            ChatmeshError: refused (NotReachable, ContentRefused, …): nothing was stored.
            ClientClosed: the client ended first; whether it was sent is not known.
        """
        if (text is None) == (content is None):
            raise ValueError("give exactly one of text and content")
        message = c.Message(
            content=content if content is not None else c.Text(text or ""),
            to_user=to_user,
            conversation_id=conversation_id,
            reply_to=reply_to,
            silent=silent,
            metadata=metadata or {},
            traceparent=traceparent,
            key=key,
        )
        return await self.send_message(message)

    async def send_message(self, message: c.Message) -> v.Sent:
        """As `send`, for a prepared message."""
        (future,) = await self._offer([message], ALONE)
        return await future

    async def send_many(
        self, messages: Sequence[c.Message], *, stop_on_error: bool = False
    ) -> list[v.Sent | ChatmeshError]:
        """Send messages in this order; one outcome each, refusals are returned, not raised.

        Args:
            messages: any number; with `stop_on_error` at most what one frame may hold.
            stop_on_error: after the first refusal the rest is refused with PreviousRefused.

        Raises:
            ClientClosed: the client ended before all answers came.
        """
        if not messages:
            return []
        group = secrets.randbits(62) + 1 if stop_on_error else ALONE
        futures = await self._offer(messages, group)
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, ClientClosed) or not isinstance(outcome, v.Sent | ChatmeshError):
                raise outcome
        return cast("list[v.Sent | ChatmeshError]", outcomes)

    async def _offer(
        self, messages: Sequence[c.Message], group: int
    ) -> list[asyncio.Future[v.Sent]]:
        self._check_open()
        outgoing = []
        for message in messages:
            key = message.key or self._new_key()
            outgoing.append(Outgoing(key, convert.outgoing_message(message, key), group))
        if group != ALONE:
            self._check_group(outgoing)
        waits = [one for one in outgoing if one.key in self._session.queue]
        if waits:
            raise InvalidRequest("a message with this key is being sent already")
        await self._hub.room.enter(len(outgoing))
        try:
            self._check_open()
            await self._store.put(
                [StoredMessage(one.key, one.message.SerializeToString(), group) for one in outgoing]
            )
        except BaseException:
            self._keeper.forget([one.key for one in outgoing])
            self._hub.room.leave(len(outgoing))
            raise
        futures = self._hub.expect(outgoing)
        self._session.offer(outgoing)
        self._runner.wake()
        return futures

    def _check_group(self, outgoing: Sequence[Outgoing]) -> None:
        limits = self._session.limits
        size = sum(one.size_bytes for one in outgoing)
        if (
            len(outgoing) > limits.max_send_batch
            or size > limits.max_frame_bytes - FRAME_HEADROOM_BYTES
        ):
            raise InvalidRequest(
                f"send_many(stop_on_error=True) goes in one frame: at most "
                f"{limits.max_send_batch} messages and {limits.max_frame_bytes} bytes",
                reason="BATCH_TOO_LARGE",
            )
