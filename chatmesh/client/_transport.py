"""The only module of the SDK that speaks gRPC: channels, one stream, unary calls.

Rules: no rule of the session lives here; failures leave as exceptions of `errors`, never as a
gRPC type. One channel at a time, to one of the targets; a failed target is left for the next.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import grpc

from chatmesh.client import errors
from chatmesh.client._problem import with_advice
from chatmesh.runtime import faults
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1.session_pb2_grpc import ChatServiceStub

MAX_RECEIVE_BYTES: Final = 8 << 20
"""Joined frames of a full window, with room."""
KEEPALIVE_SECONDS: Final = 30
CONNECT_CALL_SECONDS: Final = 10.0

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),  # backoff of another client's channel is not ours
    ("grpc.service_config", '{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}'),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS of the connection. Paths of PEM files; None means the system's authorities, no own
    certificate. `server_name` is expected in the certificate instead of the target's host."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None


class StreamEnded(Exception):
    """The server's side of the stream is over; `error` None means with status OK."""

    def __init__(self, error: errors.ChatmeshError | None) -> None:
        super().__init__(error)
        self.error = error


def translated(error: grpc.aio.AioRpcError) -> errors.ChatmeshError:
    """A failed call as an exception of the SDK."""
    fault = faults.from_rpc_error(error)
    return with_advice(
        fault.reason, fault.code.name, fault.message, dict(fault.metadata),
        fault.retry_after_seconds,
    )  # fmt: skip


class Link:
    """One open stream. `read` and `write` may run at the same time, each once."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def write(self, frame: pb.ClientFrame) -> None:
        """Hand a frame over.

        Raises StreamEnded(None) on a broken stream; why it broke, `read` says.
        """
        try:
            await self._call.write(frame)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise StreamEnded(None) from error

    async def half_close(self) -> None:
        """No more frames come from this side. Raises as `write`."""
        try:
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError) as error:
            raise StreamEnded(None) from error

    async def read(self) -> pb.ServerFrame:
        """The next frame.

        Raises StreamEnded when there is none.
        """
        try:
            frame = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise StreamEnded(translated(error)) from error
        if frame is grpc.aio.EOF:
            raise StreamEnded(None)
        return cast("pb.ServerFrame", frame)

    def cut(self) -> None:
        """End it from this side at once."""
        self._call.cancel()


class Transport:
    """Targets of one client, and its channel."""

    def __init__(
        self, target: str, tls: Tls | None, *, allow_plaintext: bool, on_behalf_of: str = ""
    ) -> None:
        self._targets = parse_targets(target)
        if tls is None and not allow_plaintext:
            _refuse_plaintext(self._targets)
        self._tls = tls
        self._behalf = (("chatmesh-on-behalf-of", on_behalf_of),) if on_behalf_of else ()
        self._at = random.randrange(len(self._targets))
        self._channel: grpc.aio.Channel | None = None

    @property
    def target(self) -> str:
        """The one in use."""
        return self._targets[self._at]

    async def move_on(self) -> None:
        """Leave this connection, and go to the next target if there is one."""
        self._at = (self._at + 1) % len(self._targets)
        await self.close()

    async def close(self) -> None:
        """Close the channel; the next call opens one."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    def open(self, token: str) -> Link:
        """Open the session's stream; failures show in its first read."""
        stub: Any = ChatServiceStub(self._open_channel())
        return Link(stub.Session(metadata=_metadata(token)))

    async def call(
        self, service: str, method: str, request: Any, answer: type[Any], token: str
    ) -> Any:
        """One unary call of a public service.

        Raises exceptions of `errors`.
        """
        call = self._open_channel().unary_unary(
            f"/chatmesh.v1.{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            return await call(
                request, metadata=(*_metadata(token), *self._behalf), timeout=CONNECT_CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise translated(error) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise errors.Unavailable("the connection was closed meanwhile") from None

    def _open_channel(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._channel = self._make_channel()
        return self._channel

    def _make_channel(self) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(self.target, options=_OPTIONS)
        tls, options = self._tls, list(_OPTIONS)
        credentials = grpc.ssl_channel_credentials(
            _read(tls.ca), private_key=_read(tls.key), certificate_chain=_read(tls.cert)
        )
        if tls.server_name:
            options.append(("grpc.ssl_target_name_override", tls.server_name))
        return grpc.aio.secure_channel(self.target, credentials, options=options)


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.ChatmeshError(f"cannot read the TLS file {path}: {error.strerror}") from error


def parse_targets(target: str) -> list[str]:
    """`HOST:PORT[,HOST:PORT…]`, or one gRPC target such as `dns:///chat:7030` or `unix:/path`."""
    parts = [part.strip() for part in target.split(",") if part.strip()]
    if not parts:
        raise errors.ChatmeshError("the target is empty: give HOST:PORT or a gRPC target")
    return parts


def _refuse_plaintext(targets: Sequence[str]) -> None:
    for target in targets:
        if not _is_local(target):
            raise errors.ChatmeshError(
                f"{target} is on another machine and the token would travel in plain text: "
                "pass tls=Tls(), or allow_plaintext=True inside an encrypted network"
            )


def _is_local(target: str) -> bool:
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    address = target.removeprefix("ipv4:").removeprefix("ipv6:").rsplit("/", 1)[-1]
    host = address.rsplit(":", 1)[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
