"""One peer of the mesh: a channel to any gRPC target, with mutual TLS from the settings.

A target is anything gRPC resolves (`dns:///name:port`, `xds:///…`, `unix:/path`, `host:port`) or a
comma list of `IP:port`, over which calls are spread.

Rules: one channel per target for the life of the process (channels are dear and leak a little);
without mesh TLS the channel adds the metadata `chatmesh-caller` to each call, never per message.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final, Self

import grpc

from chatmesh.runtime import trace
from chatmesh.runtime.callers import CALLER_METADATA
from chatmesh.runtime.deadlines import remaining_seconds
from chatmesh.runtime.errors import StartupError
from chatmesh.runtime.interceptors import bytes_or
from chatmesh.runtime.settings import ServerSettings

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
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # not the process-wide pool: a closed channel must not live on in another
    ("grpc.use_local_subchannel_pool", 1),
)


def resolve_target(target: str) -> tuple[str, str | None]:
    """gRPC's target for ours, and the authority to expect when gRPC cannot tell it.

    Raises ValueError for a comma list that is not of addresses of one family.
    """
    if "," not in target:
        return target, None
    parts = [part.strip() for part in target.split(",") if part.strip()]
    versions = set()
    for part in parts:
        host, colon, port = part.rpartition(":")
        try:
            versions.add(ipaddress.ip_address(host.strip("[]")).version)
            int(port)
        except ValueError:
            raise ValueError(f"{part!r} of the target list is not IP:port") from None
        if not colon:
            raise ValueError(f"{part!r} of the target list is not IP:port")
    if len(versions) != 1:
        raise ValueError("a target list must not mix IPv4 and IPv6")
    return f"ipv{versions.pop()}:{','.join(parts)}", parts[0]


class Peer:
    """One other service. Made inside the running event loop."""

    def __init__(self, target: str, settings: ServerSettings, *, caller: str) -> None:
        self.target = target
        resolved, authority = resolve_target(target)
        options: list[tuple[str, int | str]] = list(CHANNEL_OPTIONS)
        if authority is not None:
            options.append(("grpc.default_authority", authority))
        metadata: tuple[tuple[str, str], ...] = ()
        if settings.mesh_tls_ca and settings.mesh_tls_cert and settings.mesh_tls_key:
            if settings.mesh_server_name:
                options.append(("grpc.ssl_target_name_override", settings.mesh_server_name))
            inner = grpc.aio.secure_channel(resolved, _credentials(settings), options)
        else:
            inner = grpc.aio.insecure_channel(resolved, options)
            metadata = ((CALLER_METADATA, caller),)
        self.channel: grpc.aio.Channel = _PeerChannel(inner, metadata)

    async def close(self) -> None:
        """Cancel what runs and close the channel."""
        await self.channel.close()


def _credentials(settings: ServerSettings) -> grpc.ChannelCredentials:
    try:
        return grpc.ssl_channel_credentials(
            *(
                path.read_bytes() if path else None
                for path in (settings.mesh_tls_ca, settings.mesh_tls_key, settings.mesh_tls_cert)
            )
        )
    except OSError as error:
        raise StartupError(f"cannot read {error.filename}: {error.strerror}") from None


class _PeerChannel(grpc.aio.Channel):
    """Adds metadata and deadlines when a call begins; hands out grpc.aio's own call objects.

    Client interceptors of grpc.aio would wrap each stream's reads and writes instead.
    """

    def __init__(self, inner: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._inner = inner
        self._metadata = metadata

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Callable(self._inner.unary_unary(*args, **kwargs), self._metadata, timed=True)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        _let_bytes_pass(kwargs)
        return _Callable(self._inner.stream_unary(*args, **kwargs), self._metadata, timed=False)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Callable(self._inner.unary_stream(*args, **kwargs), self._metadata, timed=False)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        _let_bytes_pass(kwargs)
        return _Callable(self._inner.stream_stream(*args, **kwargs), self._metadata, timed=False)


def _let_bytes_pass(kwargs: dict[str, Any]) -> None:
    """Requests of streams may be bytes already: frames are joined by joining their bytes."""
    if kwargs.get("request_serializer") is not None:
        kwargs["request_serializer"] = bytes_or(kwargs["request_serializer"])


class _Callable:
    """One method of a peer."""

    __slots__ = ("_inner", "_metadata", "_timed")

    def __init__(self, inner: Any, metadata: tuple[tuple[str, str], ...], *, timed: bool) -> None:
        self._inner = inner
        self._metadata = metadata
        self._timed = timed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        metadata = [*self._metadata, *(kwargs.pop("metadata", None) or ())]
        if self._timed:
            context = trace.current_context()
            if trace.is_sampled(context):
                metadata.append(("traceparent", trace.to_traceparent(context)))
            if kwargs.get("timeout") is None and len(args) < 2:
                kwargs["timeout"] = remaining_seconds(DEFAULT_CALL_SECONDS)
        return self._inner(*args, metadata=metadata, **kwargs)
