"""One peer of the mesh: a channel to any gRPC target, with mutual TLS from the settings.

A target is anything gRPC resolves (`dns:///name:port`, `xds:///…`, `unix:/path`, `host:port`) or a
comma list of `IP:port`, over which calls are spread.

Rules: one channel per target for the life of the process (channels are dear and leak a little);
without mesh TLS the channel adds the metadata `chatmesh-caller` to each call, never per message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import grpc

from chatmesh.runtime import trace
from chatmesh.runtime.addresses import resolve_target
from chatmesh.runtime.callers import CALLER_METADATA
from chatmesh.runtime.deadlines import remaining_seconds
from chatmesh.runtime.errors import StartupError
from chatmesh.runtime.interceptors import bytes_or
from chatmesh.runtime.logs import logger
from chatmesh.runtime.settings import ServerSettings

CERTIFICATE_CHECK_SECONDS: Final = 10.0
"""Calls look for renewed certificate files at most this often."""
RETIRE_SECONDS: Final = 15 * 60
"""A replaced channel lives on this long: by then its streams have reopened by their age."""
DEFAULT_CALL_SECONDS: Final = 5.0
"""Deadline of unary mesh calls that set none; less when the running call has less left."""

_SERVICE_CONFIG: Final = '{"loadBalancingConfig":[{"round_robin":{}}]}'

CHANNEL_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.enable_retries", 0),  # a retry repeats effects; callers decide by key
    # above the server's minimum interval of 5 s, so that our pings are no strikes
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 8 << 20),
    # a peer that restarts is back in a second; gRPC's own back-off grows to two minutes
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # not the process-wide pool: a closed channel must not live on in another
    ("grpc.use_local_subchannel_pool", 1),
)


_log = logger(__name__)


class Peer:
    """One other service. Made inside the running event loop."""

    def __init__(self, target: str, settings: ServerSettings, *, caller: str) -> None:
        """`caller` is this service's name, for meshes without TLS.

        Raises ValueError for a bad target, StartupError when a certificate cannot be read.
        """
        self.target = target
        resolved, authority = resolve_target(target)
        options: list[tuple[str, int | str]] = list(CHANNEL_OPTIONS)
        if authority is not None:
            options.append(("grpc.default_authority", authority))
        files = (settings.mesh_tls_ca, settings.mesh_tls_key, settings.mesh_tls_cert)
        ca, key, cert = files
        if ca is None or key is None or cert is None:
            self._channel = _PeerChannel(
                lambda: grpc.aio.insecure_channel(resolved, options),
                ((CALLER_METADATA, caller),),
                files=(),
            )
        else:
            if settings.mesh_server_name:
                options.append(("grpc.ssl_target_name_override", settings.mesh_server_name))
            self._channel = _PeerChannel(
                lambda: grpc.aio.secure_channel(resolved, _credentials(ca, key, cert), options),
                (),
                files=(ca, key, cert),
            )

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel to make stubs on; stubs outlive a renewal of the certificates."""
        return self._channel

    async def close(self) -> None:
        """Cancel what runs and close the channel."""
        await self._channel.close()


def _credentials(*files: Path) -> grpc.ChannelCredentials:
    try:
        return grpc.ssl_channel_credentials(*(path.read_bytes() for path in files))
    except OSError as error:
        raise StartupError(f"cannot read {error.filename}: {error.strerror}") from None


class _PeerChannel(grpc.aio.Channel):
    """Adds metadata and deadlines when a call begins; hands out grpc.aio's own call objects.

    Client interceptors of grpc.aio would wrap each stream's reads and writes instead. When the
    certificate files were renewed, new calls go over a new channel and the old one is closed once
    its streams have reopened.
    """

    def __init__(
        self,
        make: Callable[[], grpc.aio.Channel],
        metadata: tuple[tuple[str, str], ...],
        files: tuple[Path, ...],
    ) -> None:
        self._make = make
        self._inner = make()
        self._files = files
        self._stamp = self._stamps()
        self._checked = time.monotonic()
        self._retired: list[grpc.aio.Channel] = []
        self._closing: set[asyncio.Task[None]] = set()
        self.metadata = metadata
        self.generation = 0

    def current(self) -> grpc.aio.Channel:
        """The channel for a call that begins now."""
        if self._files and time.monotonic() - self._checked >= CERTIFICATE_CHECK_SECONDS:
            self._checked = time.monotonic()
            stamp = self._stamps()
            if stamp != self._stamp:
                self._renew(stamp)
        return self._inner

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        """Nothing while a file is being replaced: then there is no change yet."""
        try:
            return tuple((s.st_mtime_ns, s.st_ino) for s in (path.stat() for path in self._files))
        except OSError:
            return getattr(self, "_stamp", ())

    def _renew(self, stamp: tuple[tuple[int, int], ...]) -> None:
        try:
            fresh = self._make()
        except StartupError as error:
            _log.warning("renewed certificate cannot be read, the old one stays", why=str(error))
            return
        old, self._inner, self._stamp = self._inner, fresh, stamp
        self.generation += 1
        self._retired.append(old)
        asyncio.get_running_loop().call_later(RETIRE_SECONDS, self._close_retired, old)
        _log.info("certificate renewed, new channel")

    def _close_retired(self, old: grpc.aio.Channel) -> None:
        if old in self._retired:
            self._retired.remove(old)
            task = asyncio.get_running_loop().create_task(old.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        while self._retired:
            await self._retired.pop().close(grace)
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Callable(self, "unary_unary", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        _let_bytes_pass(kwargs)
        return _Callable(self, "stream_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Callable(self, "unary_stream", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        _let_bytes_pass(kwargs)
        return _Callable(self, "stream_stream", args, kwargs)


def _let_bytes_pass(kwargs: dict[str, Any]) -> None:
    """Requests of streams may be bytes already: frames are joined by joining their bytes."""
    if kwargs.get("request_serializer") is not None:
        kwargs["request_serializer"] = bytes_or(kwargs["request_serializer"])


class _Callable:
    """One method of a peer."""

    __slots__ = ("_args", "_channel", "_generation", "_inner", "_kind", "_kwargs")

    def __init__(
        self, channel: _PeerChannel, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._channel = channel
        self._kind = kind
        self._args = args
        self._kwargs = kwargs
        self._generation = -1
        self._inner: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        current = self._channel.current()
        if self._generation != self._channel.generation:
            self._inner = getattr(current, self._kind)(*self._args, **self._kwargs)
            self._generation = self._channel.generation
        metadata = [*self._channel.metadata, *(kwargs.pop("metadata", None) or ())]
        if self._kind == "unary_unary":
            context = trace.current_context()
            if trace.is_sampled(context):
                metadata.append(("traceparent", trace.to_traceparent(context)))
            if kwargs.get("timeout") is None and len(args) < 2:
                kwargs["timeout"] = remaining_seconds(DEFAULT_CALL_SECONDS)
        return self._inner(*args, metadata=metadata, **kwargs)
