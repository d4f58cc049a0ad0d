"""Who calls on the mesh face, and which callers each method allows.

The caller is the service named by the client certificate's URI SAN
`spiffe://chatmesh/<service>`. Without mesh TLS (loopback, development) it is what the metadata
`chatmesh-caller` claims. Each mesh method names its callers in a method option of the contract;
a method without one is closed to all (default deny).

Rules: knows no contract: the option arrives as an extension handle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from chatmesh.runtime import faults
from chatmesh.runtime.faults import Fault

TRUST_DOMAIN: Final = "spiffe://chatmesh/"
CALLER_METADATA: Final = "chatmesh-caller"
_SAN_PROPERTIES: Final = ("peer_spiffe_id", "x509_subject_alternative_name")

_current: ContextVar[str] = ContextVar("caller")


def current_caller() -> str:
    """The service that made the call being handled; LookupError outside a call of the mesh face."""
    return _current.get()


def caller_if_any() -> str:
    """As `current_caller`; empty outside a call of the mesh face."""
    return _current.get("")


def set_current_caller(caller: str) -> None:
    """Bind the caller to the running call; for the guard and for tests of servicers."""
    _current.set(caller)


def allowed_callers(
    services: Iterable[ServiceDescriptor], option: Any
) -> dict[str, frozenset[str]]:
    """Callers by full method name, read from a repeated string extension of MethodOptions."""
    allowed: dict[str, frozenset[str]] = {}
    for service in services:
        for method in service.methods:
            callers = frozenset(method.GetOptions().Extensions[option])
            allowed[f"/{service.full_name}/{method.name}"] = callers
    return allowed


def caller_of(context: grpc.aio.ServicerContext[Any, Any], *, mutual_tls: bool) -> str:
    """The calling service. Raises Fault UNAUTHENTICATED CALLER_UNKNOWN when nothing names it."""
    if mutual_tls:
        properties = context.auth_context()
        for name in _SAN_PROPERTIES:
            for value in properties.get(name, ()):
                text = value.decode("utf-8", "replace")
                if text.startswith(TRUST_DOMAIN):
                    return text.removeprefix(TRUST_DOMAIN)
    else:
        for key, metadata in context.invocation_metadata() or ():
            if key == CALLER_METADATA and isinstance(metadata, str) and metadata:
                return metadata
    raise Fault(
        grpc.StatusCode.UNAUTHENTICATED, faults.CALLER_UNKNOWN, "the caller names no mesh service"
    )


def check_caller(method: str, caller: str, allowed: Mapping[str, frozenset[str]]) -> None:
    """Raise Fault PERMISSION_DENIED CALLER_NOT_ALLOWED unless the method names the caller."""
    if caller not in allowed.get(method, frozenset()):
        raise Fault(
            grpc.StatusCode.PERMISSION_DENIED,
            faults.CALLER_NOT_ALLOWED,
            "this method is not for this caller",
        )
