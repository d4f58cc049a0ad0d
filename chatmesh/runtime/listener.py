"""Limits and certificates of one listener: every gRPC server argument, with its reason.

Rules: the numbers come from the table "gRPC settings" of the reliability design; a test changes
them by `dataclasses.replace`.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from chatmesh.runtime.errors import StartupError
from chatmesh.runtime.logs import logger

_log = logger(__name__)

IDENTITY_ONLY: Final = 1
"""Bit set of accepted compressions: none. A compressed request may unpack to any size."""
CERTIFICATE_CHECK_SECONDS: Final = 10
"""New connections look for renewed certificate files at most this often."""


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """Limits of one listener. Times in milliseconds, sizes in bytes, as gRPC takes them."""

    keepalive_time_ms: int
    """A silent peer is pinged after this long: half-open connections are found."""
    keepalive_timeout_ms: int
    """And closed when it does not answer within this."""
    min_ping_interval_ms: int
    """Pings of peers closer than this are strikes; must lie below their keepalive time."""
    max_connection_age_ms: int
    """Connections are asked to reconnect at this age (±10 % by gRPC), which spreads load anew."""
    max_connection_age_grace_ms: int
    """Streams may outlive the age by this."""
    max_connection_idle_ms: int | None
    """Connections without any call are closed; None: never."""
    max_concurrent_streams: int
    """Per connection; without it no limit is announced at all."""
    max_receive_bytes: int
    """Largest request message."""
    max_concurrent_rpcs: int
    """All calls of the listener together; above it RESOURCE_EXHAUSTED instead of memory."""
    compression_mask: int = IDENTITY_ONLY
    """Accepted request compressions as gRPC's bit set."""
    max_ping_strikes: int = 2
    """Ping floods end the connection."""
    max_metadata_bytes: int = 8 * 1024
    """Soft limit of a call's metadata; above it calls may be refused."""
    absolute_max_metadata_bytes: int = 16 * 1024
    """Hard limit of a call's metadata."""
    handshake_timeout_ms: int = 10_000
    """TLS and HTTP/2 preface; gRPC's own default of 120 s invites slowloris."""

    def options(self) -> list[tuple[str, int]]:
        """gRPC server arguments."""
        chosen = [
            ("grpc.so_reuseport", 0),  # on, a second server takes half the calls in silence
            ("grpc.keepalive_time_ms", self.keepalive_time_ms),
            ("grpc.keepalive_timeout_ms", self.keepalive_timeout_ms),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", self.min_ping_interval_ms),
            ("grpc.http2.max_ping_strikes", self.max_ping_strikes),
            ("grpc.max_connection_age_ms", self.max_connection_age_ms),
            ("grpc.max_connection_age_grace_ms", self.max_connection_age_grace_ms),
            ("grpc.max_concurrent_streams", self.max_concurrent_streams),
            ("grpc.max_receive_message_length", self.max_receive_bytes),
            ("grpc.max_metadata_size", self.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.absolute_max_metadata_bytes),
            ("grpc.server_handshake_timeout_ms", self.handshake_timeout_ms),
            ("grpc.compression_enabled_algorithms_bitset", self.compression_mask),
        ]
        if self.max_connection_idle_ms is not None:
            chosen.append(("grpc.max_connection_idle_ms", self.max_connection_idle_ms))
        return chosen


PUBLIC_LIMITS: Final = ListenerLimits(
    keepalive_time_ms=30_000,
    keepalive_timeout_ms=10_000,
    min_ping_interval_ms=10_000,
    max_connection_age_ms=45 * 60_000,
    max_connection_age_grace_ms=60_000,
    max_connection_idle_ms=5 * 60_000,
    max_concurrent_streams=16,
    max_receive_bytes=1 << 20,
    max_concurrent_rpcs=20_000,
)

MESH_LIMITS: Final = ListenerLimits(
    keepalive_time_ms=10_000,
    keepalive_timeout_ms=5_000,
    min_ping_interval_ms=5_000,
    max_connection_age_ms=10 * 60_000,
    max_connection_age_grace_ms=30_000,
    max_connection_idle_ms=None,
    max_concurrent_streams=1_000,
    max_receive_bytes=8 << 20,
    max_concurrent_rpcs=4_000,
)

MESH_STREAM_AGE_SECONDS: Final = 8 * 60
"""Mesh streams reopen by their own timer, below the connection's age and its 10 % of jitter."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Certificate files of a listener; `client_ca` set means that clients must show one, too."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Server credentials that notice renewed files without a restart."""
        reloader = _CertificateReloader(self)
        return grpc.dynamic_ssl_server_credentials(
            reloader.load(),
            reloader.fetch,  # type: ignore[arg-type] # None means unchanged; the stubs forget it
            self.client_ca is not None,
        )


class _CertificateReloader:
    """Called by gRPC from its own threads before each handshake."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self._stamp: tuple[tuple[int, int], ...] = ()
        self._checked = time.monotonic()

    def load(self) -> grpc.ServerCertificateConfiguration:
        """The files as they are. Raises StartupError when one cannot be read."""
        try:
            self._stamp = self._stamps()
            pair = (self._tls.key.read_bytes(), self._tls.cert.read_bytes())
            roots = self._tls.client_ca.read_bytes() if self._tls.client_ca else None
        except OSError as error:
            raise StartupError(f"cannot read {error.filename}: {error.strerror}") from None
        return grpc.ssl_server_certificate_configuration([pair], roots)

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration, or None while nothing changed."""
        with self._lock:
            now = time.monotonic()
            if now - self._checked < CERTIFICATE_CHECK_SECONDS:
                return None
            self._checked = now
            try:
                if self._stamps() == self._stamp:
                    return None
                renewed = self.load()
            except (OSError, StartupError):
                _log.warning("renewed certificate cannot be read, the old one stays")
                return None
            _log.info("certificate renewed", path=os.fspath(self._tls.cert))
            return renewed

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        files = (self._tls.cert, self._tls.key, self._tls.client_ca)
        return tuple(
            (info.st_mtime_ns, info.st_ino) for info in (f.stat() for f in files if f is not None)
        )
