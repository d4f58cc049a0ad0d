"""What can go wrong for a user of the SDK, as exceptions with facts instead of texts to parse.

Role: turns a `Problem` of the contract (or the status of a failed call, read by the transport)
into the exception of its reason. A reason never changes its class; a reason that this release
does not know becomes the class of its status code.
Rules: knows no gRPC type; the status travels as its name ("NOT_FOUND").
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_NO_FACTS: Mapping[str, str] = MappingProxyType({})


class ChatmeshError(Exception):
    """Base of all. Programs look at the class or at `reason`; people read the text.

    Attributes:
        reason: stable UPPER_SNAKE word of the error table in protos/README.md.
        code: name of the status, such as ``NOT_FOUND``; ``LOCAL`` when no server said it.
        message: English, for developers.
        facts: facts of the reason, such as ``limit`` and ``value``.
        retry_after_seconds: the server's advice, or None.
        advice: what a client does about it, from the error table; may be empty.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "LOCAL",
        code: str = "LOCAL",
        facts: Mapping[str, str] = _NO_FACTS,
        retry_after_seconds: float | None = None,
        advice: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.facts = facts
        self.retry_after_seconds = retry_after_seconds
        self.advice = advice

    def __str__(self) -> str:
        text = self.message if self.reason == "LOCAL" else f"{self.reason}: {self.message}"
        facts = ", ".join(f"{name}={value}" for name, value in self.facts.items())
        if facts:
            text += f" ({facts})"
        return f"{text}; {self.advice}" if self.advice else text


# -- said by the server ---------------------------------------------------------------------------


class AuthenticationFailed(ChatmeshError):
    """The token is missing, wrong, expired, or somebody else's."""


class PermissionDenied(ChatmeshError):
    """The caller may not do this."""


class NotFound(ChatmeshError):
    """There is no such thing, or the caller is not in it; the two are not told apart."""


class NotReachable(NotFound):
    """No such user, or one who cannot be written to (private, blocking); not told apart."""


class InvalidRequest(ChatmeshError):
    """A field, page token, query or batch cannot be what it is."""


class ContentRefused(InvalidRequest):
    """The content is empty, too large, holds control characters, or is of a kind not allowed."""


class KeyRefused(ChatmeshError):
    """The idempotency key cannot be used. With KEY_TOO_OLD ask a person before sending anew."""


class PreviousRefused(ChatmeshError):
    """Not sent, because an earlier message of the same `send_many(stop_on_error=True)` was not."""


class NotAllowedNow(ChatmeshError):
    """The state of things forbids it: edit window over, last owner, …"""


class LimitExceeded(ChatmeshError):
    """A limit or rate of the server; `facts` names it, `retry_after_seconds` may say when again."""


class CursorInvalid(ChatmeshError):
    """The position cannot be resumed from: too old, ahead of the head, or of a rewound history."""


class Unavailable(ChatmeshError):
    """No server answered, or it could not serve; the same call may succeed later."""


class Unsupported(ChatmeshError):
    """This server does not offer that."""


class ServerFailed(ChatmeshError):
    """The server met something unforeseen."""


class ProtocolViolated(ChatmeshError):
    """Client and server do not understand each other; a defect in one of them."""


# -- why a session ended for good -----------------------------------------------------------------


class SessionEnded(ChatmeshError):
    """The session ended and must not come back by itself."""


class SessionReplaced(SessionEnded):
    """The same device opened a newer session elsewhere."""


class DeviceRefused(SessionEnded):
    """The device is signed out, or belongs to another account: sign in with a new device id."""


# -- said by the SDK itself -----------------------------------------------------------------------


class ClientClosed(ChatmeshError):
    """The client was closed. Of a message in the outbox: whether it was sent is not known."""


class StoreFailed(ChatmeshError):
    """The device's own store could not be read or written."""


_BY_REASON: Mapping[str, type[ChatmeshError]] = {
    "NO_HELLO": ProtocolViolated,
    "SECOND_HELLO": ProtocolViolated,
    "EMPTY_FRAME": ProtocolViolated,
    "UNDECODABLE": ProtocolViolated,
    "ACK_BEYOND_SENT": ProtocolViolated,
    "NO_SESSION": ProtocolViolated,
    "BAD_DEVICE_ID": InvalidRequest,
    "DEVICE_REFUSED": DeviceRefused,
    "SESSION_REPLACED": SessionReplaced,
    "CURSOR_INVALID": CursorInvalid,
    "NOT_REACHABLE": NotReachable,
    "CONTENT_EMPTY": ContentRefused,
    "CONTENT_TOO_LARGE": ContentRefused,
    "CONTENT_INVALID": ContentRefused,
    "CONTENT_UNSUPPORTED": ContentRefused,
    "KEY_INVALID": KeyRefused,
    "KEY_TOO_OLD": KeyRefused,
    "KEY_IN_FUTURE": KeyRefused,
    "KEY_REUSED": KeyRefused,
    "PREVIOUS_REFUSED": PreviousRefused,
    "EDIT_WINDOW_OVER": NotAllowedNow,
    "LAST_OWNER": NotAllowedNow,
}
"""Where the class is not the one of the status code."""

_CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
"""Names by number, as google.rpc.Code numbers them."""

_BY_CODE: Mapping[str, type[ChatmeshError]] = {
    "CANCELLED": Unavailable,
    "UNKNOWN": ServerFailed,
    "INVALID_ARGUMENT": InvalidRequest,
    "DEADLINE_EXCEEDED": Unavailable,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": InvalidRequest,
    "PERMISSION_DENIED": PermissionDenied,
    "RESOURCE_EXHAUSTED": LimitExceeded,
    "FAILED_PRECONDITION": NotAllowedNow,
    "ABORTED": NotAllowedNow,
    "OUT_OF_RANGE": InvalidRequest,
    "UNIMPLEMENTED": Unsupported,
    "INTERNAL": ServerFailed,
    "UNAVAILABLE": Unavailable,
    "DATA_LOSS": ServerFailed,
    "UNAUTHENTICATED": AuthenticationFailed,
}


def code_name(number: int) -> str:
    """Name of a google.rpc.Code number; UNKNOWN for numbers that are none."""
    return _CODES[number] if 0 <= number < len(_CODES) else "UNKNOWN"


def class_of(reason: str, code: str) -> type[ChatmeshError]:
    """The exception class of a reason, or of its status code when the reason is not known."""
    return _BY_REASON.get(reason) or _BY_CODE.get(code, ServerFailed)


def made(
    reason: str,
    code: str,
    message: str,
    facts: Mapping[str, str] = _NO_FACTS,
    retry_after_seconds: float | None = None,
    advice: str = "",
) -> ChatmeshError:
    """The exception for a reason of the error table."""
    return class_of(reason, code)(
        message,
        reason=reason,
        code=code,
        facts=dict(facts),
        retry_after_seconds=retry_after_seconds,
        advice=advice,
    )
