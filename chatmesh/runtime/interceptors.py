"""What stands around every handler, for all four call kinds.

In this order: metrics and trace, the guards (identity or caller, readiness), the deadline, the
handler; and around all of it the one place where exceptions become statuses:

- `Fault` leaves as its status with ErrorInfo; everything unforeseen is logged and leaves as
  INTERNAL with a fixed text.
- `AbortError` passes: the call is already answered.
- `CancelledError` passes when somebody cancelled this call; when an inner task's cancellation
  leaked into the handler, grpc.aio would leave the client waiting, so it becomes INTERNAL.

Handlers are wrapped once, when the service is added, and keep grpc.aio's own context: reading and
writing a stream costs nothing more. Response generators become writers, which is what grpc.aio
does with them anyway. A response that is `bytes` is sent as it is, so that frames can be joined.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final, NoReturn, Protocol, TypeAlias

import grpc
from opentelemetry.trace import SpanKind

from chatmesh.runtime import deadlines, faults, trace
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.metrics import RpcMetrics
from chatmesh.runtime.trace import Tracer

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

TRACEPARENT: Final = "traceparent"

_log = logger(__name__)
_budget = LogBudget(per_second=10)
"""Tracebacks are dear and an attacker may cause them; the metrics count all of them."""


_method: ContextVar[str] = ContextVar("method", default="")


def current_method() -> str:
    """Name of the method that is being called, without its service; empty outside a call."""
    return _method.get()


class Guard(Protocol):
    """Something that admits calls or refuses them."""

    async def admit(self, method: str, context: Context) -> None:
        """Return to admit; raise Fault to refuse. `method` is `/package.Service/Method`."""
        ...


class _Undecodable:
    """Stands for a request that could not be parsed, until the handler's wrapper refuses it."""


_UNDECODABLE: Final = _Undecodable()


class Edge:
    """Wraps the handlers of one listener."""

    def __init__(
        self,
        face: str,
        guards: Sequence[Guard] = (),
        tracer: Tracer | None = None,
        default_unary_seconds: float = deadlines.DEFAULT_UNARY_SECONDS,
    ) -> None:
        self._face = face
        self._guards = tuple(guards)
        self._tracer = tracer
        self._default_unary_seconds = default_unary_seconds
        self.stopping = False

    def wrap(self, method: str, handler: Handler, *, guarded: bool = True) -> Handler:
        """The handler with everything around it. Without `guarded` the guards are left out."""
        guards = self._guards if guarded else ()
        call = _Call(self, method, guards, RpcMetrics(self._face, method))
        if handler.request_streaming:
            decode = _strict(handler.request_deserializer)
        else:
            decode = _lenient(handler.request_deserializer)
        encode = bytes_or(handler.response_serializer)
        behavior = _behavior_of(handler)
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                call.streaming(behavior, eager_headers=True), decode, encode
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(call.streaming(behavior), decode, encode)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(call.unary(behavior, False), decode, encode)
        return grpc.unary_unary_rpc_method_handler(call.unary(behavior, True), decode, encode)

    @property
    def tracer(self) -> Tracer | None:
        """Where spans of unary calls go."""
        return self._tracer

    @property
    def default_unary_seconds(self) -> float:
        """Deadline of unary calls whose client set none."""
        return self._default_unary_seconds


class _Call:
    """One method of one listener."""

    def __init__(
        self, edge: Edge, method: str, guards: tuple[Guard, ...], metrics: RpcMetrics
    ) -> None:
        self._edge = edge
        self._method = method
        self._name = method.rpartition("/")[2]
        self._guards = guards
        self._metrics = metrics

    def unary(
        self, behavior: Callable[..., Any], has_deadline: bool
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        """Wrapper for handlers with one response."""

        async def handle(request: Any, context: Context) -> Any:
            async def work() -> Any:
                if request is _UNDECODABLE:
                    raise faults.undecodable()
                left: float | None = context.time_remaining()
                if left is None and has_deadline:
                    left = self._edge.default_unary_seconds
                    deadlines.set_deadline(left)
                    return await self._within(left, behavior(request, context))
                deadlines.set_deadline(left)
                return await behavior(request, context)

            return await self._run(context, work, timed=has_deadline)

        return handle

    def streaming(
        self, behavior: Callable[..., Any], *, eager_headers: bool = False
    ) -> Callable[[Any, Context], Awaitable[None]]:
        """Wrapper for handlers with many responses, generators and writers alike.

        With `eager_headers` the client learns at once that the stream was admitted: it may have
        nothing else to wait for.
        """
        is_generator = inspect.isasyncgenfunction(behavior)

        async def handle(request: Any, context: Context) -> None:
            async def work() -> None:
                if request is _UNDECODABLE:
                    raise faults.undecodable()
                if eager_headers:
                    await context.send_initial_metadata(())
                if not is_generator:
                    await behavior(request, context)
                    return
                responses = behavior(request, context)
                try:
                    async for response in responses:
                        await context.write(response)
                finally:
                    await responses.aclose()

            await self._run(context, work, timed=False)

        return handle

    @staticmethod
    async def _within(seconds: float, work: Awaitable[Any]) -> Any:
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                return await work
        except TimeoutError:
            if not scope.expired():
                raise
            raise Fault(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                faults.DEADLINE_EXCEEDED,
                f"not done within {seconds:g} s; set a deadline of your own",
            ) from None

    async def _run(
        self, context: Context, work: Callable[[], Awaitable[Any]], *, timed: bool
    ) -> Any:
        started_ns, started = time.time_ns(), time.monotonic()
        self._metrics.begin()
        code = grpc.StatusCode.OK.name
        try:
            _bind_trace(context)
            _method.set(self._name)
            for guard in self._guards:
                await guard.admit(self._method, context)
            return await work()
        except grpc.aio.AbortError:
            code = _code_of(context)
            raise
        except asyncio.CancelledError:
            if _was_cancelled(context):
                code = grpc.StatusCode.CANCELLED.name
                raise
            fault = self._leaked_cancellation()
            code = fault.code.name
            await _abort(context, fault)
        except Fault as fault:
            code = fault.code.name
            await _abort(context, fault)
        except Exception as error:
            if context.done() or context.cancelled():  # the client left while we wrote
                code = grpc.StatusCode.CANCELLED.name
                raise asyncio.CancelledError from error
            code = grpc.StatusCode.INTERNAL.name
            self._log_unforeseen(error)
            await _abort(context, faults.internal())
        finally:
            self._metrics.end(code, time.monotonic() - started if timed else None)
            if timed:
                self._record(started_ns, code)

    def _leaked_cancellation(self) -> Fault:
        if self._edge.stopping:
            return Fault(
                grpc.StatusCode.UNAVAILABLE, faults.SHUTTING_DOWN, "the server is stopping"
            )
        if _budget.take():
            _log.error("an inner task's cancellation reached a handler", method=self._method)
        return faults.internal()

    def _log_unforeseen(self, error: Exception) -> None:
        if _budget.take():
            _log.error("handler failed", method=self._method, exc_info=error)

    def _record(self, started_ns: int, code: str) -> None:
        parent = trace.current_context()
        if self._edge.tracer is None or not trace.is_sampled(parent):
            return
        self._edge.tracer.hop(
            self._method.lstrip("/"),
            parent,
            started_ns,
            time.time_ns(),
            {"rpc.system": "grpc", "rpc.grpc.status": code},
            kind=SpanKind.SERVER,
            error="" if code == grpc.StatusCode.OK.name else code,
        )


def _bind_trace(context: Context) -> None:
    for key, value in context.invocation_metadata() or ():
        if key == TRACEPARENT and isinstance(value, str):
            trace.set_current_context(trace.from_traceparent(value))
            return


def _was_cancelled(context: Context) -> bool:
    task = asyncio.current_task()
    return context.cancelled() or context.done() or (task is not None and task.cancelling() > 0)


def _code_of(context: Context) -> str:
    code: object = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    for known in grpc.StatusCode:
        if known.value[0] == code:
            return known.name
    return grpc.StatusCode.UNKNOWN.name


async def _abort(context: Context, fault: Fault) -> NoReturn:
    await context.abort(fault.code, fault.message, trailing_metadata=faults.to_trailers(fault))


def _behavior_of(handler: Handler) -> Callable[..., Any]:
    behavior: Callable[..., Any] | None = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    if behavior is None:
        raise TypeError("a method handler without a behaviour")
    if inspect.iscoroutinefunction(behavior) or inspect.isasyncgenfunction(behavior):
        return behavior

    async def unimplemented(_request: Any, _context: Context) -> NoReturn:
        """A method that the servicer left to its generated base, which is not a coroutine."""
        raise Fault(
            grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED", "this server has no such method"
        )

    return unimplemented


def _lenient(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """For single requests: grpc.aio parses them outside the handler, so nothing may be raised."""
    return _parsing(decode, lambda: _UNDECODABLE)


def _strict(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """For request streams: the fault comes out of `read()` and ends the handler."""

    def refuse() -> NoReturn:
        raise faults.undecodable()

    return _parsing(decode, refuse)


def _parsing(
    decode: Callable[[bytes], Any] | None, otherwise: Callable[[], Any]
) -> Callable[[bytes], Any] | None:
    if decode is None:
        return None

    def parse(raw: bytes) -> Any:
        try:
            return decode(raw)
        except Exception:  # noqa: BLE001, S110 - DecodeError, RecursionError, UnicodeDecodeError, …
            pass
        return otherwise()  # outside of the handler: nothing of the bytes is its context

    return parse


def bytes_or(encode: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    """A serialiser that lets bytes pass as they are."""
    if encode is None:
        return None

    def serialise(response: Any) -> bytes:
        return response if type(response) is bytes else encode(response)

    return serialise
