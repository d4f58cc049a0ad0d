"""Faults: the one kind of exception that becomes a gRPC status on purpose.

A fault has a status code, a machine-readable reason (the contract), a text for people (not the
contract) and optional metadata. It leaves as a status with `google.rpc.ErrorInfo` (and
`RetryInfo`) in the `grpc-status-details-bin` trailer, and `from_rpc_error` reads it back.

Rules: knows no reason of any concrete service; only the reasons that the runtime itself gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN: Final = "chatmesh"
"""`ErrorInfo.domain` of every fault of the mesh."""

DETAILS_TRAILER: Final = "grpc-status-details-bin"

# Reasons given by the runtime itself.
INTERNAL: Final = "INTERNAL"
UNDECODABLE: Final = "UNDECODABLE"
NOT_SERVING: Final = "NOT_SERVING"
SHUTTING_DOWN: Final = "SHUTTING_DOWN"
DEADLINE_EXCEEDED: Final = "DEADLINE_EXCEEDED"
CALLER_NOT_ALLOWED: Final = "CALLER_NOT_ALLOWED"
CALLER_UNKNOWN: Final = "CALLER_UNKNOWN"
PEER_TIMEOUT: Final = "PEER_TIMEOUT"
PEER_BUSY: Final = "PEER_BUSY"
TOKEN_MISSING: Final = "TOKEN_MISSING"  # noqa: S105 - a reason, no secret
TOKEN_MALFORMED: Final = "TOKEN_MALFORMED"  # noqa: S105 - a reason, no secret
TOKEN_INVALID: Final = "TOKEN_INVALID"  # noqa: S105 - a reason, no secret
TOKEN_EXPIRED: Final = "TOKEN_EXPIRED"  # noqa: S105 - a reason, no secret
TOKEN_NOT_YET_VALID: Final = "TOKEN_NOT_YET_VALID"  # noqa: S105 - a reason, no secret

INTERNAL_TEXT: Final = "internal error"
"""All that a client ever reads of an unforeseen exception: its own text may hold anything."""

_NO_METADATA: Mapping[str, str] = MappingProxyType({})


class Fault(Exception):
    """An error that the caller is meant to see, as a gRPC status with a reason.

    `message` is for people; `metadata` goes into ErrorInfo; `retry_after_seconds`, when given, goes
    into RetryInfo. None of them may hold content, tokens or names of users.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        metadata: Mapping[str, str] = _NO_METADATA,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(code, reason, message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = metadata
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason}: {self.message}"


def internal() -> Fault:
    """The answer to an exception that nobody mapped."""
    return Fault(grpc.StatusCode.INTERNAL, INTERNAL, INTERNAL_TEXT)


def undecodable() -> Fault:
    """The answer to bytes that are not the request message; the text says nothing of them."""
    return Fault(grpc.StatusCode.INVALID_ARGUMENT, UNDECODABLE, "the request could not be decoded")


def to_status(fault: Fault) -> status_pb2.Status:
    """The fault as `google.rpc.Status` with its details."""
    info = error_details_pb2.ErrorInfo(
        reason=fault.reason, domain=DOMAIN, metadata=dict(fault.metadata)
    )
    details = [_packed(info)]
    if fault.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(fault.retry_after_seconds * 1000))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=fault.code.value[0], message=fault.message, details=details)


def to_trailers(fault: Fault) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries the fault's details."""
    return ((DETAILS_TRAILER, to_status(fault).SerializeToString()),)


def from_details(code: grpc.StatusCode, message: str, trailers: grpc.aio.Metadata | None) -> Fault:
    """A status as a fault; without our details, the reason is the status name."""
    reason, metadata, retry_after = code.name, _NO_METADATA, None
    for key, value in trailers or ():
        if key != DETAILS_TRAILER or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
        except Exception:  # noqa: BLE001, S112 - hostile or foreign trailer: the status alone remains
            continue
        for detail in status.details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info) and info.domain == DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToMilliseconds() / 1000
    return Fault(code, reason, message, metadata, retry_after)


def from_rpc_error(error: grpc.aio.AioRpcError) -> Fault:
    """What a peer's failed call said, as a fault."""
    return from_details(error.code(), error.details() or "", error.trailing_metadata())


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
