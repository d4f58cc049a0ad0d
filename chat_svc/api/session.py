"""ChatService: frames in and out, and its unary calls. No rule lives here.

A session's stream is two coroutines: the reader hands frames to the session, the writer takes
frames from it. Both are the transport's and may be cancelled at any time; the session is the node's
and is told by `gone`.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from chat_svc.api.callers import Caller, Record, caller
from chat_svc.api.snapshot import Snapshots
from chat_svc.core.client_frames import batch_too_large, check_send
from chat_svc.core.extras import MAX_BIGINT
from chat_svc.core.frames import piece
from chat_svc.core.wire import varint
from chat_svc.node.fill import entry_of
from chat_svc.node.live_session import LiveSession
from chat_svc.node.node import ChatNode
from chat_svc.node.resolver import Resolver
from chat_svc.node.unary import UnarySends
from chat_svc.store.timeline import TimelineStore
from chatmesh import errors
from chatmesh.runtime import failpoints, trace
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.identity import current_identity
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1 import session_pb2_grpc

MAX_PAGE = 1_000
DEFAULT_PAGE = 100
MAX_PAGE_BYTES = 2 << 20
SILENCE_SECONDS = 0.5
MAX_SILENCES = 5
"""A status other than OK waits for the client to read `closed`: half a second after its last frame,
and two and a half in all."""
_LIST_ENTRIES = b"\x0a"
_LIST_HEAD = b"\x10"
_LIST_MIN = b"\x18"


class ChatServicer(session_pb2_grpc.ChatServiceServicer):
    """Public; the caller is the token's user."""

    def __init__(
        self,
        node: ChatNode,
        sends: UnarySends,
        timeline: TimelineStore,
        resolver: Resolver,
        snapshots: Snapshots,
        record: Record,
    ) -> None:
        self._record = record
        self._snapshots = snapshots
        self._node = node
        self._sends = sends
        self._timeline = timeline
        self._resolver = resolver

    async def Session(  # type: ignore[override] # a writer: it writes when it has something
        self, _: AsyncIterator[pb.ClientFrame], context: Any
    ) -> None:
        """A device's session over one stream."""
        session = self._node.new_session(current_identity(), trace.current_context())
        reader = asyncio.create_task(_read(session, context), name="session reader")
        try:
            await _write(session, context)
            await _tell_end(session, reader)
        finally:
            session.gone()
            while not reader.done():
                reader.cancel()
                await asyncio.wait((reader,), timeout=1)

    async def Receive(  # type: ignore[override] # a writer, as Session
        self, request: pb.ReceiveRequest, context: Any
    ) -> None:
        """The downlink of a session; its frames come by Submit."""
        session = self._node.new_session(current_identity(), trace.current_context())
        session.on_frame(pb.ClientFrame(hello=request.hello))
        try:
            await _write(session, context)
            await _tell_end(session, None)
        finally:
            session.gone()

    async def Submit(self, request: pb.SubmitRequest, context: Any) -> pb.SubmitResponse:
        """One frame for a session that Receive opened."""
        identity = current_identity()
        await self._resolver.admit(identity)
        session = self._node.parts.sessions.by_token(request.session_token)
        if session is None or session.is_over:
            raise errors.NO_SESSION()
        mine = session.identity
        if (mine.tenant, mine.user_id) != (identity.tenant, identity.user_id):
            raise errors.NO_SESSION()  # nobody learns that the session of another exists
        session.on_frame(request.frame)
        if session.busy is not None:
            await asyncio.wait((session.busy,))
        return pb.SubmitResponse()

    async def SendMessages(
        self, request: pb.SendMessagesRequest, context: Any
    ) -> pb.SendMessagesResponse:
        """Sends without a session; answers after the commit."""
        limits = self._node.parts.limits
        if len(request.messages) > limits.max_send_batch:
            raise batch_too_large(limits, len(request.messages))
        who = await self._caller(context)
        send = pb.Send(messages=request.messages, stop_on_error=request.stop_on_error)
        outcomes = check_send(send, limits, limits.max_send_batch, self._node.parts.clock.wall_ms())
        results = await self._sends.send(who, outcomes, request.stop_on_error)
        return pb.SendMessagesResponse(results=results)

    async def ListEntries(  # type: ignore[override] # bytes of a ListEntriesResponse
        self, request: pb.ListEntriesRequest, context: Any
    ) -> bytes:
        """A timeline by position; the answer is spliced, as frames are."""
        who = await self._caller(context)
        after, message_id = request.after.timeline_seq, request.after.message_id
        if not 0 <= request.page_size <= MAX_PAGE:
            raise errors.INVALID_FIELD(
                field="page_size", limit="page_size", value=MAX_PAGE, size=request.page_size
            )
        if max(after, message_id) > MAX_BIGINT:
            raise errors.CURSOR_INVALID()
        account = who.account.id
        if after and message_id and not await self._matches(account, after, message_id):
            raise errors.CURSOR_INVALID()
        read = await self._timeline.read_entries(
            account, after, request.page_size or DEFAULT_PAGE, MAX_PAGE_BYTES
        )
        if after > read.head_seq or after + 1 < read.min_seq:
            raise errors.CURSOR_INVALID(head=read.head_seq, oldest=read.min_seq)
        parts = [piece(_LIST_ENTRIES, entry_of(row)) for row in read.rows]
        parts += [_LIST_HEAD, varint(read.head_seq), _LIST_MIN, varint(read.min_seq)]
        return b"".join(parts)

    async def GetSnapshot(
        self, request: pb.GetSnapshotRequest, context: Any
    ) -> pb.GetSnapshotResponse:
        """The state of all conversations as of one position."""
        return await self._snapshots.page(await self._caller(context), request)

    async def _matches(self, account: int, seq: int, message_id: int) -> bool:
        return await self._timeline.cursor_matches(account, seq, message_id)

    async def _caller(self, context: Any) -> Caller:
        return await caller(self._resolver, context, self._record)


async def _read(session: LiveSession, context: Any) -> None:
    """Frames of one client, one after the other, until it half-closes or breaks a rule."""
    try:
        while (frame := await context.read()) is not grpc.aio.EOF:
            session.on_frame(frame)
            if (busy := session.busy) is not None:
                await asyncio.wait((busy,))
    except Fault as fault:
        session.undecodable(fault)
    else:
        session.half_closed()


async def _write(session: LiveSession, context: Any) -> None:
    """Write what the session has, until `closed` is written or the client takes nothing more."""
    wake = asyncio.Event()
    writer = asyncio.current_task()
    aborted = False

    def abort() -> None:
        nonlocal aborted
        aborted = True
        if writer is not None:
            writer.cancel()

    session.attach_writer(wake.set, abort)
    try:
        while not session.is_finished:
            frame = session.take_frame()
            if frame:
                await failpoints.hit("write.before")
                await context.write(frame)
                session.wrote()
            else:
                await wake.wait()
                wake.clear()
    except asyncio.CancelledError:
        if not aborted:
            raise
        if writer is not None:
            writer.uncancel()  # the session's own doing: its status is still to be told


async def _tell_end(session: LiveSession, reader: asyncio.Task[None] | None) -> None:
    """Return for OK, raise the fault that the session ended with.

    A client's gRPC drops messages that it has not handed on when a status other than OK comes
    (chttp2: a stream that has "seen an error" empties its buffer), and grpc.aio tells a client that
    writes at that moment INTERNAL instead of the status. So the status waits until the client has
    half-closed or hung up, as one that read `closed` does, or has been silent for a moment.
    """
    session.gone()
    if (fault := session.final_fault) is None:
        return
    if reader is None:
        await asyncio.sleep(SILENCE_SECONDS)
        raise fault
    for _ in range(MAX_SILENCES):
        heard_ns = session.received_ns
        await asyncio.wait((reader,), timeout=SILENCE_SECONDS)
        if reader.done() or session.received_ns == heard_ns:
            break
    raise fault
