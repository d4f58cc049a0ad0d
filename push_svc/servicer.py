"""PushService: check → convert → call → convert."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import grpc
import psycopg

from chatmesh import errors
from chatmesh.mesh.v1 import push_pb2 as pb
from chatmesh.mesh.v1 import push_pb2_grpc
from chatmesh.runtime import faults
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.frames import FrameWriter, running
from chatmesh.runtime.leaving import OpenStreams
from chatmesh.runtime.postgres import LostConnection
from push_svc import convert
from push_svc.intake import Intake
from push_svc.providers import BadToken
from push_svc.providers import Provider as ProviderPort
from push_svc.store.records import RecordStore
from push_svc.store.tokens import TokenStore

MAX_UNANSWERED: Final = 1_024
"""Requests of one stream whose transaction has not ended; above it the stream is not read."""

_Resp = TypeVar("_Resp")


class PushServicer(push_pb2_grpc.PushServiceServicer):
    """The RPCs; any replica serves any account."""

    def __init__(
        self,
        intake: Intake,
        tokens: TokenStore,
        records: RecordStore,
        providers: Mapping[int, ProviderPort],
    ) -> None:
        """`providers`: those offered here, by their number in the contract."""
        self._intake = intake
        self._tokens = tokens
        self._records = records
        self._providers = providers
        self.streams = OpenStreams()

    async def Push(  # type: ignore[override]  # a writing handler: answers come in any order
        self, request_iterator: AsyncIterator[pb.PushRequest], context: Any
    ) -> None:
        """Each answer comes after the commit of its jobs; requests share commits."""

        def respond(request_id: int, jobs: int, fault: Fault | None) -> pb.PushResponse:
            if fault is None:
                return pb.PushResponse(request_id=request_id, jobs=jobs)
            return pb.PushResponse(
                request_id=request_id, error_code=fault.code.value[0], error_reason=fault.reason
            )

        with self.streams.stream():
            async with _Answers[pb.PushResponse](context, respond).open() as answers:
                async for request in request_iterator:
                    targets = convert.targets_of(request)
                    await answers.wait(request.request_id, self._intake.put(targets))

    async def Cancel(  # type: ignore[override]  # a writing handler
        self, request_iterator: AsyncIterator[pb.CancelRequest], context: Any
    ) -> None:
        """Voids jobs."""

        def respond(request_id: int, _jobs: int, fault: Fault | None) -> pb.CancelResponse:
            if fault is not None:
                raise fault  # the answer has no place for it: the stream ends and comes again
            return pb.CancelResponse(request_id=request_id)

        with self.streams.stream():
            async with _Answers[pb.CancelResponse](context, respond).open() as answers:
                async for request in request_iterator:
                    progress = convert.progress_of(request)
                    await answers.wait(request.request_id, self._intake.cancel(progress))

    async def PutToken(self, request: pb.PutTokenRequest, context: Any) -> pb.PutTokenResponse:
        """Binds a token; it leaves the device that had it."""
        provider = self._providers.get(int(request.token.provider))
        if provider is None:
            raise errors.PROVIDER_UNKNOWN()
        token = convert.token_of(request)
        try:
            await provider.check_token(token.token, token.app)
        except BadToken as error:
            raise errors.PUSH_TOKEN_INVALID(str(error)) from None
        async with _store():
            bound = await self._tokens.put(request.account_id, token)
        return pb.PutTokenResponse(
            push_devices=bound.push_devices,
            moved_from_account_id=bound.moved_from,
            moved_from_push_devices=bound.moved_from_devices,
        )

    async def DeleteTokens(
        self, request: pb.DeleteTokensRequest, context: Any
    ) -> pb.DeleteTokensResponse:
        """Unbinds devices; their jobs end."""
        convert.check_number("account_id", request.account_id)
        if request.forget:
            async with _store():
                await self._tokens.forget(request.account_id, request.user_id)
            return pb.DeleteTokensResponse()
        convert.check_devices(request.device_ids)
        async with _store():
            left = await self._tokens.delete(request.account_id, request.device_ids)
        return pb.DeleteTokensResponse(push_devices=left)

    async def ListTokens(
        self, request: pb.ListTokensRequest, context: Any
    ) -> pb.ListTokensResponse:
        """Bindings, without the tokens."""
        convert.check_number("account_id", request.account_id)
        async with _store():
            tokens = await self._tokens.list(request.account_id)
        return pb.ListTokensResponse(tokens=map(convert.listed, tokens))

    async def PutDeadLetters(
        self, request: pb.PutDeadLettersRequest, context: Any
    ) -> pb.PutDeadLettersResponse:
        """Keeps what could not be handled."""
        letters = convert.letters_of(request)
        if letters:
            async with _store():
                await self._records.put_letters(letters)
        return pb.PutDeadLettersResponse()

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: Any
    ) -> pb.ListDeadLettersResponse:
        """A page of letters."""
        size = convert.page_size(request.page_size, 100, 1_000)
        after = min(request.after_dead_letter_id, convert.MAX_POSITION)
        async with _store():
            letters = await self._records.list_letters(after, size)
            total = await self._records.count_letters()
        response = pb.ListDeadLettersResponse(total=total)
        room = 4 << 20  # payloads may be large; what does not fit comes with the next page
        for letter in letters:
            room -= len(letter.payload)
            if room < 0 and response.letters:
                break
            response.letters.append(convert.letter_of(letter))
        return response

    async def RetryDeadLetters(
        self, request: pb.RetryDeadLettersRequest, context: Any
    ) -> pb.RetryDeadLettersResponse:
        """Makes jobs of letters."""
        convert.check_size(
            "dead_letter_ids", len(request.dead_letter_ids), convert.MAX_LETTERS_PER_REQUEST
        )
        for letter_id in request.dead_letter_ids:
            convert.check_number("dead_letter_ids", letter_id)
        async with _store():
            retried = await self._records.retry_letters(request.dead_letter_ids)
        return pb.RetryDeadLettersResponse(retried=retried.letters, left=retried.left)

    async def ListPushes(
        self, request: pb.ListPushesRequest, context: Any
    ) -> pb.ListPushesResponse:
        """What became of an account's jobs."""
        convert.check_number("account_id", request.account_id)
        size = convert.page_size(request.page_size, 20, 1_000)
        async with _store():
            rows = await self._records.list_pushes(request.account_id, size)
        return pb.ListPushesResponse(pushes=map(convert.record_of, rows))


Respond = Callable[[int, int, Fault | None], _Resp]


class _Answers(FrameWriter[_Resp]):
    """The answers of one stream, in the order in which their transactions end; no task each."""

    def __init__(self, context: Any, respond: Respond[_Resp]) -> None:
        super().__init__(context, max_frames=2 * MAX_UNANSWERED)
        self._respond = respond
        self._slots = asyncio.Semaphore(MAX_UNANSWERED)
        self._open: set[asyncio.Future[int]] = set()
        self._fault: Fault | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator["_Answers[_Resp]"]:
        """Write answers while the body reads; then wait for the open ones."""
        async with running(self):
            yield self
            if self._open:
                await asyncio.wait(self._open)
            self._raise()

    async def wait(self, request_id: int, done: asyncio.Future[int]) -> None:
        """Answer when `done` is; waits only for a slot. Raises Fault that ends the stream."""
        self._raise()
        await self._slots.acquire()
        self._open.add(done)
        done.add_done_callback(lambda ended: self._answer(request_id, ended))

    def _answer(self, request_id: int, ended: asyncio.Future[int]) -> None:
        self._open.discard(ended)
        self._slots.release()
        if ended.cancelled():
            return
        error = ended.exception()
        fault = error if isinstance(error, Fault) else faults.internal() if error else None
        try:
            self.offer(self._respond(request_id, 0 if fault else ended.result(), fault))
        except Fault as refused:
            self._fault = refused

    def _raise(self) -> None:
        if self._fault is not None:
            raise self._fault


@asynccontextmanager
async def _store() -> AsyncIterator[None]:
    """The store's trouble as a status."""
    try:
        yield
    except (LostConnection, StoreRefused, psycopg.OperationalError) as error:
        raise Fault(
            grpc.StatusCode.UNAVAILABLE,
            faults.NOT_SERVING,
            "not serving: missing postgres",
            {"missing": "postgres"},
            retry_after_seconds=1,
        ) from error
