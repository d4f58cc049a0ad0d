"""The client: one device of one user, for asyncio applications.

Role: assembles machine, transport, store and hub, and is the face to applications.
Rules: no gRPC and no protobuf type in any public signature; nothing blocks the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
from types import TracebackType
from typing import Final, Literal, Self, cast

from chatmesh import __version__
from chatmesh.client import _values as v
from chatmesh.client._conversation_calls import ConversationCalls
from chatmesh.client._hub import Hub, SpanRecorder
from chatmesh.client._keys import ServerTime
from chatmesh.client._moves import Config
from chatmesh.client._outbox import MemoryStore, Remembered, Store
from chatmesh.client._people_calls import PeopleCalls
from chatmesh.client._runner import Runner, SnapshotHandler
from chatmesh.client._sending import Sending
from chatmesh.client._sendqueue import Outgoing
from chatmesh.client._session import Session
from chatmesh.client._storekeeper import Storekeeper
from chatmesh.client._talking import Talking
from chatmesh.client._tokens import TokenProvider, Tokens
from chatmesh.client._transport import Tls, Transport
from chatmesh.client.errors import (
    ChatmeshError,
    ClientClosed,
    StoreFailed,
    Unavailable,
)
from chatmesh.runtime.clock import Clock, SystemClock
from chatmesh.v1.types_pb2 import DeviceKind as DeviceKindNumber
from chatmesh.v1.types_pb2 import OutgoingMessage

DEFAULT_CONNECT_SECONDS: Final = 15.0
DEFAULT_CLOSE_SECONDS: Final = 5.0
DEFAULT_MAX_UNANSWERED: Final = 10_000

_log = logging.getLogger("chatmesh.client")


class Client(Sending, Talking, ConversationCalls, PeopleCalls):
    """One device of one user. Use it as an async context manager.

        async with Client("127.0.0.1:7030", token=token, device_id="phone") as client:
            sent = await client.send(to_user="bob", text="hello")
            async for entry in client.entries():
                ...  # store it; asking for the next one acks it

    It reconnects by itself, resumes where the application stopped, and sends what was unanswered
    again under the same keys. Only a session that must not come back ends it: then every iterator
    and every waiting `send` raises the reason.

    Args:
        target: ``HOST:PORT`` (several with commas: any of them), or a gRPC target.
        token: a bearer token, or a coroutine function that fetches one. With a function the
            token is renewed inside the session before it ends.
        device_id: this installation, 1 to 64 of ``A-Z a-z 0-9 . _ -``; empty: the store's, or
            one that the server makes. One device lives once: the newest session wins.
        device_kind, device_name: for presence and lists of devices.
        store: where outbox and cursor live; default: memory. `SqliteStore` survives restarts.
        start: where a new device begins: at the oldest retained entry, or at the head.
        ack: ``auto``: `entries` acks an entry when the next is asked for; ``manual``: only
            `Entry.ack` does.
        on_snapshot: awaited when the cursor cannot be resumed from: replace what you have by
            the snapshot; entries go on after it. None: entries go on after it.
        tls: TLS options; None is plain text, allowed to this machine only unless
            `allow_plaintext`.
        connect_timeout_seconds: how long `async with` waits for the first session before it
            raises Unavailable; None: do not wait (start offline).
        close_timeout_seconds: how long leaving waits for answers that are still out.
        max_unanswered: messages without an answer; `send` waits while there are more.
        client_version: name and version of the application, for the operators of the servers.
        tracer: records the client's own hops of sampled messages.
        clock: time; for tests.
    """

    def __init__(
        self,
        target: str,
        *,
        token: str | TokenProvider,
        device_id: str = "",
        device_kind: v.DeviceKind = v.DeviceKind.UNKNOWN,
        device_name: str = "",
        store: Store | None = None,
        start: Literal["oldest", "head"] = "oldest",
        ack: Literal["auto", "manual"] = "auto",
        on_snapshot: SnapshotHandler | None = None,
        tls: Tls | None = None,
        allow_plaintext: bool = False,
        connect_timeout_seconds: float | None = DEFAULT_CONNECT_SECONDS,
        close_timeout_seconds: float = DEFAULT_CLOSE_SECONDS,
        max_unanswered: int = DEFAULT_MAX_UNANSWERED,
        client_version: str = "",
        tracer: SpanRecorder | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Prepare a client; nothing is connected before `async with`. Arguments: see the class."""
        self._clock = clock or SystemClock()
        self._tokens = Tokens(token)
        self._transport = Transport(target, tls, allow_plaintext=allow_plaintext)
        self._store = store or MemoryStore()
        self._auto_ack = ack == "auto"
        self._on_snapshot = on_snapshot
        self._connect_seconds = connect_timeout_seconds
        self._close_seconds = close_timeout_seconds
        self._max_unanswered = max_unanswered
        self._tracer = tracer
        self._time = ServerTime(self._clock)
        self._config = Config(
            device_id=device_id,
            device_kind=cast("DeviceKindNumber.ValueType", int(device_kind)),
            device_name=device_name,
            client_version=client_version or f"chatmesh-python/{__version__}",
            start_at_head=start == "head",
            can_renew_token=self._tokens.can_renew,
        )
        self._task: asyncio.Task[None] | None = None
        self._closed: ChatmeshError | BaseException | None = None

    # -- life --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the store, connect, and return at the first welcome.

        Raises:
            StoreFailed: the store cannot be used.
            AuthenticationFailed, SessionEnded, …: the server refused for good.
            Unavailable: no session within `connect_timeout_seconds`.
        """
        if self._task is not None:
            raise ClientClosed("a client is used once: make a new one")
        self._assemble(await self._store.open())
        self._task = asyncio.create_task(self._live(), name="chatmesh-client")
        try:
            if self._connect_seconds is not None:
                await self._first_welcome(self._connect_seconds)
        except BaseException:
            await self._stop(0.0)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave: after an error at once, else when what was sent is answered and acks are out."""
        await self._stop(self._close_seconds if kind is None else 0.0)

    def _assemble(self, remembered: Remembered) -> None:
        config = self._config
        if config.device_id and remembered.device_id not in ("", config.device_id):
            raise StoreFailed(
                f"the store belongs to device {remembered.device_id!r}, not to "
                f"{config.device_id!r}: give each device its own"
            )
        self._session = Session(config, remembered.cursor, random.random)
        self._session.device_id = config.device_id or remembered.device_id
        self._session.user_id = remembered.user_id
        self._keeper = Storekeeper(self._store, self._session, self._wake_writer)
        self._hub = Hub(self._session, self._keeper.save_cursor, self._tracer, self._max_unanswered)
        unanswered = [
            Outgoing(one.key, OutgoingMessage.FromString(one.body), one.group)
            for one in remembered.unanswered
        ]
        self._hub.room.take(len(unanswered))
        self._session.offer(unanswered)
        self._runner = Runner(
            self._session, self._transport, self._tokens, self._hub, self._keeper, self._time,
            self._clock, self._on_snapshot,
        )  # fmt: skip

    async def _first_welcome(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._runner.welcomed)
        except TimeoutError:
            last = self._runner.last_error
            raise Unavailable(
                f"no session at {self._transport.target} within {seconds:g} s"
                + (f"; last: {last}" if last else ""),
                reason=last.reason if last else "LOCAL",
                code=last.code if last else "LOCAL",
            ) from last

    async def _live(self) -> None:
        """All background work, until the application leaves or the session ends for good."""
        runner = asyncio.create_task(self._runner.run(), name="chatmesh-runner")
        keeper = asyncio.create_task(self._keeper.run(), name="chatmesh-keeper")
        error: BaseException | None = None
        try:
            await asyncio.wait({runner, keeper}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not runner.done():
                runner.cancel()
            await asyncio.wait({runner})
            self._keeper.stop()
            await asyncio.wait({keeper})
            for task in (keeper, runner):
                if not task.cancelled() and task.exception() is not None:
                    error = task.exception()
            if error is not None and not isinstance(error, ChatmeshError):
                _log.error("the client ended by a defect", exc_info=error)
            self._closed = error or ClientClosed("the client is closed")
            if not self._runner.welcomed.done():
                self._runner.welcomed.set_exception(self._closed)
                self._runner.welcomed.exception()  # read: it may not be awaited
            self._hub.end(error)

    async def _stop(self, patience_seconds: float) -> None:
        task = self._task
        if task is None:
            return
        try:
            if not task.done() and patience_seconds > 0:
                self._runner.leave()
                await asyncio.wait({task}, timeout=patience_seconds)
            task.cancel()
            await asyncio.wait({task})
        finally:
            await self._store.close()
            await self._transport.close()

    def _wake_writer(self) -> None:
        self._runner.wake()

    def _check_started(self) -> None:
        if self._task is None:
            raise ClientClosed("use the client as `async with Client(…) as client`")

    def _check_open(self) -> None:
        self._check_started()
        if self._closed is not None:
            raise self._closed

    # -- what is known -----------------------------------------------------------------------------

    @property
    def user_id(self) -> str:
        """The user, as the server reads the token; empty before the first session."""
        return self._session.user_id

    @property
    def device_id(self) -> str:
        """This device; empty before the server has named it."""
        return self._session.device_id

    @property
    def session(self) -> v.SessionInfo | None:
        """What the server said when the newest session opened."""
        return self._hub.info

    @property
    def is_connected(self) -> bool:
        """Whether a session lives now."""
        return self._session.is_live

    @property
    def unread(self) -> v.Unread:
        """Totals as last heard."""
        return self._hub.unread

    @property
    def account_version(self) -> int:
        """Version of the account's own state as last heard; see `changed_conversations`."""
        return self._hub.account_version

    @property
    def _me(self) -> str:
        return self._session.user_id
