"""A service with all four call kinds, made without generated code, for tests of the runtime.

`Message` has `uint64 request_id = 1` and `string text = 2`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, cast

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "chatmesh.tests.Echo"


def _message_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="chatmesh/tests/echo.proto", package="chatmesh.tests", syntax="proto3"
    )
    message = file.message_type.add(name="Message")
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, (name, kind) in enumerate(
        [("request_id", kinds.TYPE_UINT64), ("text", kinds.TYPE_STRING)], start=1
    ):
        message.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("chatmesh.tests.Message"))


class MessageLike(Protocol):
    """What the dynamic class looks like."""

    request_id: int
    text: str

    def SerializeToString(self) -> bytes:
        """Wire form."""
        ...


Message: Callable[..., MessageLike] = _message_class()
Handler = Callable[[Any, Any], Any]


class EchoServicer:
    """Answers what came. Tests override the methods."""

    async def UnaryUnary(self, request: MessageLike, context: Any) -> Any:
        """One in, one out."""
        return Message(request_id=request.request_id, text=request.text)

    async def UnaryStream(self, request: MessageLike, context: Any) -> AsyncIterator[Any]:
        """Each character of the text."""
        for character in request.text:
            yield Message(text=character)

    async def StreamUnary(self, requests: AsyncIterator[MessageLike], context: Any) -> Any:
        """All texts, joined."""
        return Message(text="".join([request.text async for request in requests]))

    async def StreamStream(self, requests: AsyncIterator[MessageLike], context: Any) -> None:
        """Each request back."""
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(Message(request_id=request.request_id, text=request.text))


def add_echo(servicer: Any, server: Any) -> None:
    """What a generated `add_…Servicer_to_server` does."""
    decode = Message.FromString  # type: ignore[attr-defined]

    def encode(message: Any) -> bytes:
        return cast("bytes", message.SerializeToString())

    handlers = {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(servicer.UnaryUnary, decode, encode),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(servicer.UnaryStream, decode, encode),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(servicer.StreamUnary, decode, encode),
        "StreamStream": grpc.stream_stream_rpc_method_handler(
            servicer.StreamStream, decode, encode
        ),
    }
    generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
    server.add_generic_rpc_handlers((generic,))
    server.add_registered_method_handlers(SERVICE, handlers)


class EchoStub:
    """What a generated stub is; `raw` sends bytes as they are."""

    def __init__(self, channel: grpc.aio.Channel, *, raw: bool = False) -> None:
        encode = (lambda data: data) if raw else (lambda message: message.SerializeToString())
        decode = Message.FromString  # type: ignore[attr-defined]
        options = {"request_serializer": encode, "response_deserializer": decode}
        make: Any = channel
        self.UnaryUnary = make.unary_unary(f"/{SERVICE}/UnaryUnary", **options)
        self.UnaryStream = make.unary_stream(f"/{SERVICE}/UnaryStream", **options)
        self.StreamUnary = make.stream_unary(f"/{SERVICE}/StreamUnary", **options)
        self.StreamStream = make.stream_stream(f"/{SERVICE}/StreamStream", **options)

    async def all_kinds(self, request: Any, **options: Any) -> list[tuple[str, Any]]:
        """Call all four kinds with one request each; (kind, result or error)."""

        async def many(call: Any) -> list[Any]:
            return [response async for response in call]

        calls: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
            ("UnaryUnary", lambda: self.UnaryUnary(request, **options)),
            ("UnaryStream", lambda: many(self.UnaryStream(request, **options))),
            ("StreamUnary", lambda: self.StreamUnary(iter([request]), **options)),
            ("StreamStream", lambda: many(self.StreamStream(iter([request]), **options))),
        ]
        results: list[tuple[str, Any]] = []
        for kind, call in calls:
            try:
                results.append((kind, await call()))
            except grpc.aio.AioRpcError as error:
                results.append((kind, error))
        return results
