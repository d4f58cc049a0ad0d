"""What leaves a server when a handler fails, on all four call kinds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from chatmesh.runtime import deadlines, faults, trace
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.interceptors import Context
from chatmesh.runtime.metrics import REGISTRY
from tests.runtime.conftest import Serving
from tests.runtime.echo import SERVICE, EchoServicer, EchoStub, Message

KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
BAD_BYTES = b"\x12\xff"  # a string that ends before it begins
BAD_UTF8 = b"\x12\x02\xc3\x28"


class Failing(EchoServicer):
    """Every method does what `act` does, after reading."""

    def __init__(self, act: Callable[[Any], Any]) -> None:
        self.act = act

    async def UnaryUnary(self, request: Any, context: Any) -> Any:
        return await self.act(context)

    async def UnaryStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield Message(text="first")
        await self.act(context)

    async def StreamUnary(self, requests: Any, context: Any) -> Any:
        async for _ in requests:
            pass
        return await self.act(context)

    async def StreamStream(self, requests: Any, context: Any) -> None:
        await context.write(Message(text="first"))
        await self.act(context)


async def failures(serving: Serving, act: Callable[[Any], Any]) -> dict[str, grpc.aio.AioRpcError]:
    stub = await serving.echo(Failing(act))
    results = dict(await stub.all_kinds(Message(text="x"), timeout=10))
    assert set(results) == set(KINDS)
    for kind, result in results.items():
        assert isinstance(result, grpc.aio.AioRpcError), (kind, result)
    return results


async def test_echo_works_on_all_kinds(serving: Serving) -> None:
    stub = await serving.echo()
    results = dict(await stub.all_kinds(Message(text="ab"), timeout=10))
    assert results["UnaryUnary"].text == "ab"
    assert [message.text for message in results["UnaryStream"]] == ["a", "b"]
    assert results["StreamUnary"].text == "ab"
    assert [message.text for message in results["StreamStream"]] == ["ab"]


async def test_a_fault_leaves_with_its_details(serving: Serving) -> None:
    async def act(_context: Any) -> None:
        raise Fault(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY", "slow down", {"limit": "5"}, 1.5
        )

    for kind, error in (await failures(serving, act)).items():
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, kind
        assert error.details() == "slow down"
        raw = dict(error.trailing_metadata())[faults.DETAILS_TRAILER]
        assert isinstance(raw, bytes)
        status = status_pb2.Status.FromString(raw)
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(info)
        assert (info.reason, info.domain, dict(info.metadata)) == (
            "TOO_MANY",
            "chatmesh",
            {"limit": "5"},
        )
        assert status.details[1].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == 1500
        back = faults.from_rpc_error(error)
        assert (back.code, back.reason, back.message) == (error.code(), "TOO_MANY", "slow down")
        assert back.retry_after_seconds == 1.5
        assert dict(back.metadata) == {"limit": "5"}


async def test_an_unforeseen_exception_says_nothing_of_itself(serving: Serving) -> None:
    async def act(_context: Any) -> None:
        raise RuntimeError("canary: somebody's words")

    for kind, error in (await failures(serving, act)).items():
        assert error.code() is grpc.StatusCode.INTERNAL, kind
        assert error.details() == faults.INTERNAL_TEXT
        assert faults.from_rpc_error(error).reason == faults.INTERNAL
        assert "canary" not in str(error)


async def test_an_abort_passes_with_its_own_status(serving: Serving) -> None:
    async def act(context: Any) -> None:
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone")

    for kind, error in (await failures(serving, act)).items():
        assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "gone"), kind


async def test_a_cancelled_inner_task_does_not_leave_the_client_waiting(serving: Serving) -> None:
    async def act(_context: Any) -> None:
        inner = asyncio.get_running_loop().create_future()
        inner.cancel()
        await inner

    for kind, error in (await failures(serving, act)).items():
        assert error.code() is grpc.StatusCode.INTERNAL, kind
        assert faults.from_rpc_error(error).reason == faults.INTERNAL


async def test_a_client_that_leaves_cancels_its_handler(serving: Serving) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def act(_context: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    stub = await serving.echo(Failing(act))
    calls: list[Callable[[], Any]] = [
        lambda: stub.UnaryUnary(Message()),
        lambda: stub.StreamStream(iter([Message()])),
    ]
    for call in calls:
        entered.clear()
        left.clear()
        running = call()
        async with asyncio.timeout(10):
            await entered.wait()
            running.cancel()
            await left.wait()


@pytest.mark.parametrize("raw", [BAD_BYTES, BAD_UTF8, b"\xff" * 40])
async def test_undecodable_bytes(serving: Serving, raw: bytes) -> None:
    stub = await serving.echo(raw=True)
    for kind, error in await stub.all_kinds(raw, timeout=10):
        assert isinstance(error, grpc.aio.AioRpcError), kind
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, kind
        assert error.details() == "the request could not be decoded"
        assert faults.from_rpc_error(error).reason == faults.UNDECODABLE


async def test_undecodable_bytes_end_a_stream_after_good_frames(serving: Serving) -> None:
    stub = await serving.echo(raw=True)
    call = stub.StreamStream(timeout=10)
    await call.write(Message(text="good").SerializeToString())
    assert (await call.read()).text == "good"
    await call.write(BAD_BYTES)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert faults.from_rpc_error(caught.value).reason == faults.UNDECODABLE


async def test_responses_may_be_bytes(serving: Serving) -> None:
    joined = Message(text="a").SerializeToString() + Message(request_id=9).SerializeToString()

    class Bytes(EchoServicer):
        async def StreamStream(self, requests: Any, context: Any) -> None:
            await context.write(joined)

    stub = await serving.echo(Bytes())
    (message,) = [message async for message in stub.StreamStream(iter([]), timeout=10)]
    assert (message.text, message.request_id) == ("a", 9)


async def test_a_stream_is_admitted_before_its_first_answer(serving: Serving) -> None:
    stub = await serving.echo()
    call = stub.StreamStream()
    async with asyncio.timeout(10):
        await call.wait_for_connection()
    call.cancel()


async def test_a_client_without_deadline_gets_one(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    async def act(_context: Any) -> Any:
        seen.append(deadlines.remaining_seconds(1000))
        await asyncio.Event().wait()

    server, address = await serving.server(Failing(act))
    monkeypatch.setattr(server._edge, "_default_unary_seconds", 0.05)
    stub = EchoStub(serving.channel(address))
    async with asyncio.timeout(10):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.UnaryUnary(Message())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert faults.from_rpc_error(caught.value).reason == faults.DEADLINE_EXCEEDED
    assert seen[0] <= 0.05


async def test_a_handlers_own_timeout_is_not_taken_for_the_deadline(serving: Serving) -> None:
    async def act(_context: Any) -> None:
        raise TimeoutError

    stub = await serving.echo(Failing(act))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.UnaryUnary(Message())
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_the_clients_deadline_is_known_inside(serving: Serving) -> None:
    seen: list[float] = []

    class Looking(EchoServicer):
        async def UnaryUnary(self, request: Any, context: Any) -> Any:
            seen.append(deadlines.remaining_seconds(1000))
            return Message()

    stub = await serving.echo(Looking())
    await stub.UnaryUnary(Message(), timeout=30)
    assert 0 < seen[0] < 1000  # what the client set, not what was asked for


async def test_a_method_left_to_the_generated_base(serving: Serving) -> None:
    class Base(EchoServicer):
        def UnaryUnary(self, request: Any, context: Any) -> Any:
            raise NotImplementedError

    stub = await serving.echo(Base())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.UnaryUnary(Message(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_guards_refuse_before_the_handler(serving: Serving) -> None:
    class Never:
        async def admit(self, method: str, context: Context) -> None:
            raise Fault(grpc.StatusCode.PERMISSION_DENIED, "NEVER", method)

    called: list[str] = []

    async def act(_context: Any) -> None:
        called.append("handler")

    stub = await serving.echo(Failing(act), guards=[Never()])
    for kind, error in await stub.all_kinds(Message(), timeout=10):
        assert isinstance(error, grpc.aio.AioRpcError), kind
        assert faults.from_rpc_error(error).reason == "NEVER"
        assert error.details() == f"/{SERVICE}/{kind}"
    assert called == []


def handled(method: str, code: str) -> float:
    labels = {"face": "mesh", "method": f"/{SERVICE}/{method}", "code": code}
    return REGISTRY.get_sample_value("chatmesh_rpc_handled_total", labels) or 0.0


async def test_red_metrics(serving: Serving) -> None:
    async def act(_context: Any) -> None:
        raise Fault(grpc.StatusCode.NOT_FOUND, "NONE", "none")

    before = {kind: handled(kind, "NOT_FOUND") for kind in KINDS}
    await failures(serving, act)
    assert {kind: handled(kind, "NOT_FOUND") - before[kind] for kind in KINDS} == dict.fromkeys(
        KINDS, 1.0
    )
    open_now = REGISTRY.get_sample_value(
        "chatmesh_rpc_open", {"face": "mesh", "method": f"/{SERVICE}/UnaryUnary"}
    )
    assert open_now == 0


async def test_traceparent_reaches_the_handler(serving: Serving) -> None:
    seen: list[bytes] = []

    class Looking(EchoServicer):
        async def UnaryUnary(self, request: Any, context: Any) -> Any:
            seen.append(trace.current_context())
            return Message()

    stub = await serving.echo(Looking())
    root = trace.new_root(sampled=True)
    await stub.UnaryUnary(Message(), metadata=[("traceparent", trace.to_traceparent(root))])
    await stub.UnaryUnary(Message(), metadata=[("traceparent", "00-hostile")])
    await stub.UnaryUnary(Message())
    assert seen == [root, b"", b""]
