"""Every refusal of the contract: reason, status, text.

One table, read by servicers (to raise), by the SDK (to type) and by a test that compares it with
the error table of protos/README.md. Texts are for developers and say what to do; they never hold
content of messages. Identity of a reason is its name; it never changes meaning.
"""

from dataclasses import dataclass

import grpc

from chatmesh.runtime.faults import Fault

_S = grpc.StatusCode


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row of the error table; call it to make the :class:`Fault` that is raised or sent."""

    reason: str
    code: grpc.StatusCode
    text: str
    client: str
    """What the client does about it."""

    def __call__(
        self, text: str | None = None, *, retry_after_seconds: float | None = None, **facts: object
    ) -> Fault:
        """Make the fault.

        Args:
            text: replaces the table's text where more can be said.
            retry_after_seconds: advice for the client, if any.
            facts: become the metadata of ``google.rpc.ErrorInfo``.
        """
        return Fault(
            code=self.code,
            reason=self.reason,
            message=text or self.text,
            metadata={name: str(value) for name, value in facts.items()},
            retry_after_seconds=retry_after_seconds,
        )


def _row(reason: str, code: grpc.StatusCode, text: str, client: str) -> Refusal:
    return Refusal(reason, code, text, client)


# fmt: off
# -- session ---------------------------------------------------------------------------------
NO_HELLO = _row("NO_HELLO", _S.FAILED_PRECONDITION,
    "the first frame of a session is hello", "fix the client")
SECOND_HELLO = _row("SECOND_HELLO", _S.FAILED_PRECONDITION,
    "hello comes once per session", "fix the client")
EMPTY_FRAME = _row("EMPTY_FRAME", _S.INVALID_ARGUMENT,
    "the frame holds no kind that this server knows", "fix or update the client")
BAD_DEVICE_ID = _row("BAD_DEVICE_ID", _S.INVALID_ARGUMENT,
    "device_id is 1 to 64 of A-Z a-z 0-9 . _ -", "fix the client")
DEVICE_REFUSED = _row("DEVICE_REFUSED", _S.PERMISSION_DENIED,
    "this device is signed out or belongs to another account", "sign in anew with a new device id")
DEVICE_UNKNOWN = _row("DEVICE_UNKNOWN", _S.NOT_FOUND,
    "the caller has no such device", "open a session on it first")
ACK_BEYOND_SENT = _row("ACK_BEYOND_SENT", _S.INVALID_ARGUMENT,
    "an ack may not be above what was sent to this session",
    "fix the client; resume from its store")
CURSOR_INVALID = _row("CURSOR_INVALID", _S.FAILED_PRECONDITION,
    "the cursor cannot be resumed from", "take GetSnapshot, then resume from its position")
RATE_LIMITED = _row("RATE_LIMITED", _S.RESOURCE_EXHAUSTED,
    "too many frames too fast", "wait retry_after, send batches")
NO_SESSION = _row("NO_SESSION", _S.FAILED_PRECONDITION,
    "there is no such session here", "open Receive again")
SESSION_REPLACED = _row("SESSION_REPLACED", _S.ABORTED,
    "the same device opened a newer session", "stop: another run of this device is live")
# -- messages --------------------------------------------------------------------------------
NOT_REACHABLE = _row("NOT_REACHABLE", _S.NOT_FOUND,
    "there is no such user, or they cannot be reached", "show as undeliverable")
NOT_FOUND = _row("NOT_FOUND", _S.NOT_FOUND,
    "there is no such conversation, or the caller is not in it", "drop it from view")
NOT_A_MEMBER = _row("NOT_A_MEMBER", _S.NOT_FOUND,
    "there is no such conversation, or the caller is not in it", "show as undeliverable")
NO_DESTINATION = _row("NO_DESTINATION", _S.INVALID_ARGUMENT,
    "a message names to_user_id or conversation_id", "fix the client")
CONTENT_EMPTY = _row("CONTENT_EMPTY", _S.INVALID_ARGUMENT,
    "a message needs content", "fix the client")
CONTENT_TOO_LARGE = _row("CONTENT_TOO_LARGE", _S.INVALID_ARGUMENT,
    "the content is larger than Limits.max_content_bytes", "shorten or attach")
CONTENT_INVALID = _row("CONTENT_INVALID", _S.INVALID_ARGUMENT,
    "the text holds NUL or control characters", "clean the text")
CONTENT_UNSUPPORTED = _row("CONTENT_UNSUPPORTED", _S.INVALID_ARGUMENT,
    "clients cannot send this kind of content", "update the client or send text")
BATCH_TOO_LARGE = _row("BATCH_TOO_LARGE", _S.INVALID_ARGUMENT,
    "more messages in one call than Limits.max_send_batch", "split the batch")
BATCH_EMPTY = _row("BATCH_EMPTY", _S.INVALID_ARGUMENT,
    "a send carries at least one message", "fix the client")
TARGET_UNKNOWN = _row("TARGET_UNKNOWN", _S.NOT_FOUND,
    "the message that this refers to does not exist in the conversation", "drop the action")
NOT_YOURS = _row("NOT_YOURS", _S.PERMISSION_DENIED,
    "only its sender may change this message", "drop the action")
EDIT_WINDOW_OVER = _row("EDIT_WINDOW_OVER", _S.FAILED_PRECONDITION,
    "the message is too old to be edited", "send a new message")
KEY_INVALID = _row("KEY_INVALID", _S.INVALID_ARGUMENT,
    "an idempotency key is a UUIDv7 of 16 bytes", "fix the client")
KEY_TOO_OLD = _row("KEY_TOO_OLD", _S.FAILED_PRECONDITION,
    "the idempotency key is older than the server remembers", "ask the user before sending anew")
KEY_IN_FUTURE = _row("KEY_IN_FUTURE", _S.FAILED_PRECONDITION,
    "the idempotency key lies in the future", "take time from welcome.server_time_ms")
KEY_REUSED = _row("KEY_REUSED", _S.ALREADY_EXISTS,
    "the idempotency key was used for other content", "fix the client: one key per message")
PREVIOUS_REFUSED = _row("PREVIOUS_REFUSED", _S.ABORTED,
    "an earlier message of this send was refused", "mend the first, send again with the same keys")
OUTBOX_FULL = _row("OUTBOX_FULL", _S.RESOURCE_EXHAUSTED,
    "too much is undelivered on this node", "wait retry_after, send again with the same keys")
STORE_FULL = _row("STORE_FULL", _S.RESOURCE_EXHAUSTED,
    "the database has no room left and stored nothing; its operator is told",
    "wait retry_after, send again with the same keys")
SENDS_IN_FLIGHT = _row("SENDS_IN_FLIGHT", _S.RESOURCE_EXHAUSTED,
    "more sends without a result than Limits.max_sends_in_flight", "wait for results")
# -- conversations and contacts ----------------------------------------------------------------
ROLE_REQUIRED = _row("ROLE_REQUIRED", _S.PERMISSION_DENIED,
    "the caller's role does not allow this", "ask an admin or owner")
LAST_OWNER = _row("LAST_OWNER", _S.FAILED_PRECONDITION,
    "a group with members keeps an owner", "make another member owner first")
LIMIT_EXCEEDED = _row("LIMIT_EXCEEDED", _S.RESOURCE_EXHAUSTED,
    "a limit would be exceeded", "see metadata: limit, value")
INVALID_FIELD = _row("INVALID_FIELD", _S.INVALID_ARGUMENT,
    "a field holds what it cannot", "see metadata: field")
PAGE_TOKEN_INVALID = _row("PAGE_TOKEN_INVALID", _S.INVALID_ARGUMENT,
    "the page token is a day old, or of another caller or query", "start from the first page")
QUERY_INVALID = _row("QUERY_INVALID", _S.INVALID_ARGUMENT,
    "the search cannot be understood", "show the text to the user")
# -- push --------------------------------------------------------------------------------------
PUSH_TOKEN_INVALID = _row("PUSH_TOKEN_INVALID", _S.INVALID_ARGUMENT,
    "the push token cannot be one of this provider", "fetch a new token")
PROVIDER_UNKNOWN = _row("PROVIDER_UNKNOWN", _S.INVALID_ARGUMENT,
    "the provider is unknown or not configured here", "choose a configured provider")
# -- mesh --------------------------------------------------------------------------------------
COUNT_INVALID = _row("COUNT_INVALID", _S.INVALID_ARGUMENT,
    "count is 1 to 10,000", "fix the caller")
NO_WORKER = _row("NO_WORKER", _S.RESOURCE_EXHAUSTED,
    "all worker numbers are taken", "stop a sequencer or widen the worker bits")
NODE_UNKNOWN = _row("NODE_UNKNOWN", _S.FAILED_PRECONDITION,
    "the node has no lease", "send KeepAlive first")
# -- login: given by chatmesh.runtime --------------------------------------------------------------
TOKEN_MISSING = _row("TOKEN_MISSING", _S.UNAUTHENTICATED,
    "the call carries no bearer token", "send authorization: Bearer <JWT>")
TOKEN_MALFORMED = _row("TOKEN_MALFORMED", _S.UNAUTHENTICATED,
    "the bearer token is not a signed JWT", "fetch a new token")
TOKEN_INVALID = _row("TOKEN_INVALID", _S.UNAUTHENTICATED,
    "the token is not valid here", "fetch a token of a configured issuer and audience")
TOKEN_EXPIRED = _row("TOKEN_EXPIRED", _S.UNAUTHENTICATED,
    "the token's time is over", "fetch a new token; renew_token within a session")
TOKEN_NOT_YET_VALID = _row("TOKEN_NOT_YET_VALID", _S.UNAUTHENTICATED,
    "the token is not valid yet", "check the issuer's clock")
TOKEN_MISMATCH = _row("TOKEN_MISMATCH", _S.UNAUTHENTICATED,
    "the new token belongs to another user or tenant", "renew with a token of the same user")
TOKEN_REVOKED = _row("TOKEN_REVOKED", _S.UNAUTHENTICATED,
    "the token was revoked", "sign in anew")
USER_DISABLED = _row("USER_DISABLED", _S.PERMISSION_DENIED,
    "the caller's account is switched off", "tell the user; ask an administrator")
SCOPE_REQUIRED = _row("SCOPE_REQUIRED", _S.PERMISSION_DENIED,
    "the token lacks the scope that this needs", "see metadata: scope")
CALLER_UNKNOWN = _row("CALLER_UNKNOWN", _S.UNAUTHENTICATED,
    "the mesh peer has no service identity", "present a certificate of the mesh")
CALLER_NOT_ALLOWED = _row("CALLER_NOT_ALLOWED", _S.PERMISSION_DENIED,
    "this service may not call this method", "none: the arrows are fixed")
# -- all: given by chatmesh.runtime ----------------------------------------------------------------
UNDECODABLE = _row("UNDECODABLE", _S.INVALID_ARGUMENT,
    "the request could not be decoded", "fix the client; compare protos")
NOT_SERVING = _row("NOT_SERVING", _S.UNAVAILABLE,
    "the server misses what it needs", "wait, try again; see metadata: missing")
SHUTTING_DOWN = _row("SHUTTING_DOWN", _S.UNAVAILABLE,
    "the server is leaving", "connect again: another one answers")
DEADLINE_EXCEEDED = _row("DEADLINE_EXCEEDED", _S.DEADLINE_EXCEEDED,
    "the call took longer than its deadline", "repeat under the same key")
PEER_TIMEOUT = _row("PEER_TIMEOUT", _S.UNAVAILABLE,
    "another service of the mesh did not answer in time", "repeat under the same key")
PEER_BUSY = _row("PEER_BUSY", _S.RESOURCE_EXHAUSTED,
    "another service of the mesh is busy", "wait retry_after, repeat under the same key")
INTERNAL = _row("INTERNAL", _S.INTERNAL,
    "internal error", "report it; repeat under the same key")
UNIMPLEMENTED = _row("UNIMPLEMENTED", _S.UNIMPLEMENTED,
    "this server does not offer that yet", "do without")

# fmt: on

TABLE = tuple(row for row in list(globals().values()) if isinstance(row, Refusal))
BY_REASON = {row.reason: row for row in TABLE}
