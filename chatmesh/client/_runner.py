"""Drives the session machine over real streams: connects, reads, writes, comes back.

One task for the client's life, and three per stream: a reader, a writer that pulls frames, and
one that renews the token. No rule lives here: what to do next is the machine's answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from chatmesh.client import _convert as convert
from chatmesh.client._events import Disconnected, SnapshotTaken
from chatmesh.client._hub import Hub
from chatmesh.client._keys import ServerTime
from chatmesh.client._moves import (
    Cut,
    Ended,
    HalfClose,
    Next,
    Received,
    Reconnect,
    TakeSnapshot,
    Wait,
    Write,
)
from chatmesh.client._progress import Cursor
from chatmesh.client._session import Session
from chatmesh.client._storekeeper import Storekeeper
from chatmesh.client._tokens import RETRY_SECONDS, Tokens
from chatmesh.client._transport import Link, StreamEnded, Transport
from chatmesh.client._values import Conversation, Snapshot
from chatmesh.client.errors import AuthenticationFailed, ChatmeshError, StoreFailed, Unavailable
from chatmesh.runtime.clock import Clock
from chatmesh.v1 import session_pb2 as pb

SnapshotHandler = Callable[[Snapshot], Awaitable[None]]

REASON_SECONDS: Final = 1.0
"""How long the reason of a broken stream is waited for."""
MIN_RENEWAL_SECONDS: Final = 1.0

_log = logging.getLogger("chatmesh.client")


class Runner:
    """The background work of one client."""

    def __init__(
        self,
        session: Session,
        transport: Transport,
        tokens: Tokens,
        hub: Hub,
        storekeeper: Storekeeper,
        server_time: ServerTime,
        clock: Clock,
        on_snapshot: SnapshotHandler | None,
    ) -> None:
        self._session = session
        self._transport = transport
        self._tokens = tokens
        self._hub = hub
        self._keeper = storekeeper
        self._time = server_time
        self._clock = clock
        self._on_snapshot = on_snapshot
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self.last_error: ChatmeshError | None = None
        self.welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done at the first welcome, or with the error that made one impossible."""

    def wake(self) -> None:
        """Something is to be written."""
        self._wake.set()

    def leave(self) -> None:
        """End in good order: what waits is sent first, if a session lives."""
        self._session.leave()
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Until the application leaves (returns) or the session ends for good (raises)."""
        next_: Next = Reconnect(0.0)
        while True:
            match next_:
                case Ended(error):
                    if error is not None:
                        raise error
                    return
                case Reconnect(after) | TakeSnapshot(after):
                    if await self._pause(after):
                        return
            if isinstance(next_, Reconnect):
                next_ = await self._one_session(next_)
            else:
                next_ = await self._take_snapshot()

    async def _pause(self, seconds: float) -> bool:
        """Wait before the next attempt; True when the application leaves meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    # -- one stream --------------------------------------------------------------------------------

    async def _one_session(self, how: Reconnect) -> Next:
        if how.elsewhere:
            await self._transport.move_on()
        error: ChatmeshError | None
        try:
            token = await self._fetch_token()
        except ChatmeshError as failed:
            error = failed
            self._session.open_stream(self._clock.monotonic())
        else:
            self._session.open_stream(self._clock.monotonic())
            error = await self._drive(self._transport.open(token))
        self.last_error = error
        next_ = self._session.lost(error, self._clock.monotonic())
        if isinstance(next_, Reconnect | TakeSnapshot):
            _log.info("session over (%s); next: %s", error or "in good order", next_)
            self._hub.events.publish([Disconnected(error, next_.after_seconds)])
        return next_

    async def _fetch_token(self) -> str:
        try:
            return await self._tokens.fetch()
        except ChatmeshError:
            raise
        except Exception as error:  # the application's own code: anything may come
            _log.warning("the token provider failed", exc_info=True)
            raise Unavailable(f"the token provider failed: {error!r}") from error

    async def _drive(self, link: Link) -> ChatmeshError | None:
        """Read and write until the stream is over; why it is."""
        reader = asyncio.create_task(self._read(link), name="chatmesh-read")
        writer = asyncio.create_task(self._write(link), name="chatmesh-write")
        renewer = asyncio.create_task(self._renew(), name="chatmesh-renew")
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                cut = writer.result()
                if cut:
                    return Unavailable(cut)
                await asyncio.wait({reader}, timeout=REASON_SECONDS)
                if not reader.done():
                    return Unavailable("the stream broke")
            return reader.result()
        finally:
            for task in (reader, writer, renewer):
                task.cancel()
            link.cut()
            await asyncio.gather(reader, writer, renewer, return_exceptions=True)

    async def _read(self, link: Link) -> ChatmeshError | None:
        while True:
            try:
                frame = await link.read()
            except StreamEnded as ended:
                return ended.error
            received = self._session.receive(frame, self._clock.monotonic())
            self._take(received)
            self._wake.set()
            if frame.closed:
                return None

    def _take(self, received: Received) -> None:
        welcome = received.welcome
        if welcome is not None:
            self._time.heard(welcome.server_time_ms)
            self._keeper.save_identity(welcome.user_id, welcome.device_id)
            if received.begins:
                progress = self._session.progress
                self._keeper.save_cursor(Cursor(welcome.start_timeline_seq), progress.epoch)
        if received.pong is not None:
            self._time.heard(received.pong.server_time_ms)
        if received.settled:
            self._keeper.forget([settled.key for settled in received.settled])
        self._hub.take(received)
        if welcome is not None and not self.welcomed.done():
            self.welcomed.set_result(None)

    async def _write(self, link: Link) -> str:
        """Returns why the stream shall be cut, or "" when it broke by itself."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            now = self._clock.monotonic()
            try:
                match self._session.step(now):
                    case Write(frame):
                        await link.write(frame)
                    case HalfClose():
                        await link.half_close()
                    case Cut(why):
                        return why
                    case Wait(until):
                        timer = None
                        if until != float("inf"):
                            timer = loop.call_later(max(0.0, until - now), self._wake.set)
                        try:
                            await self._wake.wait()
                        finally:
                            if timer is not None:
                                timer.cancel()
            except StreamEnded:
                return ""

    async def _renew(self) -> None:
        """Fresh tokens in time, said inside the stream."""
        while True:
            after = self._tokens.renew_after_seconds(self._time.now_ms())
            if after is None:
                return
            await self._clock.sleep(max(after, MIN_RENEWAL_SECONDS))
            try:
                token = await self._fetch_token()
            except ChatmeshError:
                await self._clock.sleep(RETRY_SECONDS)
                continue
            if self._session.is_live:
                self._session.statements.renew_token(token)
                self._wake.set()

    # -- snapshots ---------------------------------------------------------------------------------

    async def _take_snapshot(self) -> Next:
        self._hub.void_entries()
        try:
            snapshot = await self._read_snapshot()
            if self._on_snapshot is not None:
                await self._on_snapshot(snapshot)
            await self._keeper.snapshot(snapshot.as_of)
        except (StoreFailed, AuthenticationFailed):
            raise
        except ChatmeshError as error:
            return self._session.snapshot_failed(error)
        self._hub.events.publish([SnapshotTaken(snapshot)])
        return self._session.snapshot_taken(snapshot.as_of)

    async def _read_snapshot(self) -> Snapshot:
        """All pages. A token that ran out between pages shows as AuthenticationFailed."""
        me = self._session.user_id
        conversations: list[Conversation] = []
        token, page_token = await self._fetch_token(), ""
        while True:
            answer: pb.GetSnapshotResponse = await self._transport.call(
                "ChatService", "GetSnapshot", pb.GetSnapshotRequest(page_token=page_token),
                pb.GetSnapshotResponse, token,
            )  # fmt: skip
            conversations += [convert.conversation(one, me) for one in answer.conversations]
            page_token = answer.next_page_token
            if not page_token:
                break
        return Snapshot(convert.cursor(answer.as_of), conversations, answer.account_version)
