"""One device on the load client's fast path: a `Session` stream with acks, pings and checks.

Role: opens the session as any client does (token, hello, welcome, caught_up), checks that the
timeline is contiguous, acks what it stored, keeps the session alive. Subclasses say what an event
and a result mean.

Rules: frames are parsed by the protobuf runtime (1 µs an entry, seven times less than a scanner in
Python), written by splicing. A session that ends before it was told to is a failure of the run.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Final

from chatmesh.cli.bench import payload
from chatmesh.cli.bench.grpc_stream import Ended, GrpcStream
from chatmesh.cli.bench.h2 import GrpcConnection, connect
from chatmesh.cli.bench.plan import DevicePlan
from chatmesh.v1 import session_pb2, types_pb2

SESSION_PATH: Final = "/chatmesh.v1.ChatService/Session"
ACK_ENTRIES: Final = 64
"""A quarter of the default window: acks go out long before the server has to stop."""
OPEN_SECONDS: Final = 30
_PARSE: Final = session_pb2.ServerFrame.FromString


class DeviceFailed(Exception):
    """A session ended, or said what it may not; the text names device, node and reason."""


class Device:
    """A session of one device."""

    open_seconds: float = OPEN_SECONDS
    """How long `open` waits until the session is live."""

    def __init__(self, plan: DevicePlan, on_failure: Callable[[str], None]) -> None:
        self.plan = plan
        self.out_of_order = 0
        self.duplicated = 0
        self.entries = 0
        self.limits = types_pb2.Limits()
        self.clock_ahead_ms = 0
        """Server's wall clock minus ours; keys are made from it."""
        self._on_failure = on_failure
        self._connection: GrpcConnection | None = None
        self._stream: GrpcStream | None = None
        self._opened: asyncio.Future[None] | None = None
        self._last_seq = 0
        self._acked_seq = 0
        self._wrote_at = 0.0
        self._leaving = False

    # -- life ----------------------------------------------------------------------------------

    async def open(self, tls: ssl.SSLContext | None) -> None:
        """Connect, say hello, and be live. Raises DeviceFailed."""
        self._opened = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self.open_seconds):
                self._connection = await connect(self.plan.target, tls)
                self._stream = self._connection.open(
                    SESSION_PATH,
                    [("authorization", f"Bearer {self.plan.token}")],
                    self._on_frame,
                    self._on_end,
                )
                self.write(session_pb2.ClientFrame(hello=self.hello()).SerializeToString())
                await self._opened
        except TimeoutError:
            raise DeviceFailed(f"{self.name}: no session within {self.open_seconds:g} s") from None
        except (OSError, ssl.SSLError) as error:
            raise DeviceFailed(f"{self.name}: cannot connect: {error}") from None

    def hello(self) -> session_pb2.Hello:
        """What the session begins with; a device that comes back says its cursor."""
        return session_pb2.Hello(
            device_id=self.plan.device_id,
            device_kind=types_pb2.DEVICE_KIND_PHONE,
            capabilities=["slim_echo"],
            client_version="chatmesh-bench",
        )

    async def leave(self) -> None:
        """Half-close, as a client that is done, and close the connection."""
        self._leaving = True
        if self._stream is not None:
            self.ack()
            self._stream.half_close()
        await asyncio.sleep(0)
        if self._connection is not None:
            self._connection.close()

    @property
    def name(self) -> str:
        """For messages to people."""
        return f"session of {self.plan.user} on {self.plan.target}"

    @property
    def acked_seq(self) -> int:
        """Position that was acked last."""
        return self._acked_seq

    # -- out -----------------------------------------------------------------------------------

    def write(self, frame: bytes) -> None:
        """Send one ClientFrame."""
        if self._stream is not None:
            self._stream.send(frame)
            self._wrote_at = time.monotonic()

    def ack(self) -> None:
        """Ack what was received, if that is news."""
        if self._last_seq > self._acked_seq:
            self._acked_seq = self._last_seq
            self.write(payload.ack_frame(self._last_seq))

    def keep_alive(self, now: float) -> None:
        """Ping when nothing was said for a third of the time that the server waits."""
        if now - self._wrote_at > self.limits.idle_timeout_seconds / 3:
            self.write(payload.PING_FRAME)

    # -- in ------------------------------------------------------------------------------------

    def on_event(self, event: types_pb2.Event) -> None:
        """One new entry's event, in timeline order; for subclasses."""

    def on_results(self, results: Iterable[session_pb2.SendResult]) -> None:
        """Answers to sends; for subclasses."""

    def after_frame(self) -> None:
        """All of a frame was handled; for subclasses."""

    def fail(self, what: str) -> None:
        """End the run with this message."""
        if not self._leaving:
            self._leaving = True
            text = f"{self.name} {what}"
            if self._opened is not None and not self._opened.done():
                self._opened.set_exception(DeviceFailed(text))
            else:
                self._on_failure(text)

    def _on_frame(self, data: bytes) -> None:
        frame = _PARSE(data)
        if frame.entries:
            self._on_entries(frame.entries)
        if frame.send_results:
            self.on_results(frame.send_results)
        if frame.welcome:
            self._on_welcome(frame.welcome[0])
        if frame.caught_up and self._opened is not None and not self._opened.done():
            self._opened.set_result(None)
        if frame.closed:
            self._on_closed(frame.closed[0])
        self.after_frame()

    def _on_entries(self, entries: Iterable[types_pb2.Entry]) -> None:
        last = self._last_seq
        count = 0
        for entry in entries:
            seq = entry.timeline_seq
            if seq <= last:
                self.duplicated += 1
                continue
            if seq != last + 1:
                self.out_of_order += 1
            last = seq
            count += 1
            self.on_event(entry.event)
        self._last_seq = last
        self.entries += count
        if last - self._acked_seq >= ACK_ENTRIES:
            self.ack()

    def _on_welcome(self, welcome: session_pb2.Welcome) -> None:
        self.limits = welcome.limits
        self.clock_ahead_ms = welcome.server_time_ms - time.time_ns() // 1_000_000
        self._last_seq = self._acked_seq = welcome.start_timeline_seq

    def _on_closed(self, closed: session_pb2.Closed) -> None:
        reason = session_pb2.Closed.Reason.Name(closed.reason)
        problem = (
            f": {closed.problem.reason} {closed.problem.message}" if closed.problem.reason else ""
        )
        self.fail(f"was closed by the server: {reason}{problem}")

    def _on_end(self, ended: Ended) -> None:
        self.fail(f"ended: gRPC status {ended.code} {ended.message!r}")
