"""Contract ↔ values, with the checks of what comes in. No rule and no I/O."""

import re
from collections.abc import Sequence

from chatmesh import errors
from chatmesh.mesh.v1 import push_pb2 as pb
from chatmesh.runtime import trace
from chatmesh.v1 import devices_pb2
from push_svc.store.jobs import Progress, Target
from push_svc.store.records import MAX_LETTER_BYTES, Letter, PushRow
from push_svc.store.tokens import Token

MAX_TARGETS_PER_REQUEST = 10_000
MAX_DEVICES_PER_TARGET = 1_000
MAX_DELAY_MS = 86_400_000
MAX_TOKEN_BYTES = 4_096
MAX_APP_BYTES = 255
MAX_LETTERS_PER_REQUEST = 1_000
MAX_REASON_CHARACTERS = 500
MAX_POSITION = (1 << 63) - 1
"""PostgreSQL's bigint."""

_DEVICE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOCALE = re.compile(r"[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8}){0,8}")
_ORIGINS = frozenset(("sync", "push"))


def targets_of(request: pb.PushRequest) -> tuple[Target, ...]:
    """What is to be told. Raises Fault INVALID_FIELD, LIMIT_EXCEEDED, BAD_DEVICE_ID."""
    check_size("targets", len(request.targets), MAX_TARGETS_PER_REQUEST)
    return tuple(_target(target) for target in request.targets)


def _target(target: pb.PushTarget) -> Target:
    check_number("account_id", target.account_id)
    check_number("timeline_seq", target.timeline_seq)
    if target.message_id > MAX_POSITION:
        raise errors.INVALID_FIELD("not the id of a message", field="message_id")
    if not 0 <= target.delay_ms <= MAX_DELAY_MS:
        raise errors.INVALID_FIELD("a delay is 0 ms to one day", field="delay_ms")
    check_devices(target.device_ids)
    check_devices(target.except_device_ids)
    context = target.trace_context if trace.is_context(target.trace_context) else trace.NONE
    return Target(
        target.account_id,
        target.timeline_seq,
        tuple(target.device_ids),
        tuple(target.except_device_ids),
        target.delay_ms,
        context,
        target.message_id,
    )


def progress_of(request: pb.CancelRequest) -> tuple[Progress, ...]:
    """What was acked or read. Raises Fault INVALID_FIELD, LIMIT_EXCEEDED, BAD_DEVICE_ID."""
    check_size("targets", len(request.targets), MAX_TARGETS_PER_REQUEST)
    for target in request.targets:
        check_number("account_id", target.account_id)
        if target.timeline_seq > MAX_POSITION:
            raise errors.INVALID_FIELD("not a position", field="timeline_seq")
        if target.device_id:
            check_devices((target.device_id,))
    return tuple(
        Progress(target.account_id, target.device_id, target.timeline_seq)
        for target in request.targets
    )


def token_of(request: pb.PutTokenRequest) -> Token:
    """A binding. Raises Fault INVALID_FIELD, BAD_DEVICE_ID, PUSH_TOKEN_INVALID."""
    token = request.token
    check_number("account_id", request.account_id)
    check_devices((token.device_id,))
    if not token.token or len(token.token.encode()) > MAX_TOKEN_BYTES or "\x00" in token.token:
        raise errors.PUSH_TOKEN_INVALID(f"a token has 1 to {MAX_TOKEN_BYTES} bytes, none of them 0")
    if len(token.app.encode()) > MAX_APP_BYTES or "\x00" in token.app:
        raise errors.INVALID_FIELD(f"app is at most {MAX_APP_BYTES} bytes", field="token.app")
    if token.locale and not _LOCALE.fullmatch(token.locale):
        raise errors.INVALID_FIELD("locale is a BCP 47 tag", field="token.locale")
    if token.privacy not in devices_pb2.PushPrivacy.values():
        raise errors.INVALID_FIELD("there is no such privacy", field="token.privacy")
    return Token(
        token.device_id,
        int(token.provider),
        token.token,
        token.app,
        token.locale or "en",
        int(token.privacy),
    )


def listed(token: Token) -> devices_pb2.PushToken:
    """A binding without its token."""
    return devices_pb2.PushToken(
        device_id=token.device_id,
        provider=devices_pb2.PushProvider.ValueType(token.provider),
        app=token.app,
        locale=token.locale,
        privacy=devices_pb2.PushPrivacy.ValueType(token.privacy),
    )


def letters_of(request: pb.PutDeadLettersRequest) -> list[Letter]:
    """Dead letters to keep. Raises Fault INVALID_FIELD, BAD_DEVICE_ID, LIMIT_EXCEEDED."""
    check_size("letters", len(request.letters), MAX_LETTERS_PER_REQUEST)
    for letter in request.letters:
        if letter.origin not in _ORIGINS:
            raise errors.INVALID_FIELD("origin is sync or push", field="letters.origin")
        numbers = (letter.account_id, letter.timeline_seq, letter.batch_id, letter.node_id)
        if max(numbers) > MAX_POSITION:
            raise errors.INVALID_FIELD("above 2^63 - 1", field="letters")
        if letter.device_id:
            check_devices((letter.device_id,))
    return [
        Letter(
            0,
            letter.origin,
            letter.account_id,
            letter.device_id,
            letter.timeline_seq,
            letter.reason.replace("\x00", "")[:MAX_REASON_CHARACTERS],
            0,
            letter.payload[:MAX_LETTER_BYTES],
            letter.batch_id,
            letter.node_id,
        )
        for letter in request.letters
    ]


def letter_of(letter: Letter) -> pb.DeadLetter:
    """A kept letter."""
    return pb.DeadLetter(
        dead_letter_id=letter.letter_id,
        origin=letter.origin,
        account_id=letter.account_id,
        timeline_seq=letter.timeline_seq,
        reason=letter.reason,
        created_at_ms=letter.created_at_ms,
        payload=letter.payload,
        device_id=letter.device_id,
        batch_id=letter.batch_id,
        node_id=letter.node_id,
    )


def record_of(row: PushRow) -> pb.PushRecord:
    """One line of the record."""
    return pb.PushRecord(
        device_id=row.device_id,
        provider=devices_pb2.PushProvider.ValueType(row.provider),
        timeline_seq=row.timeline_seq,
        message_id=row.message_id,
        sent_at_ms=row.sent_at_ms,
        outcome=row.outcome,
        visible=row.visible,
        title=row.title,
        body=row.body,
    )


def page_size(asked: int, default: int, limit: int) -> int:
    """How many to answer. Raises Fault INVALID_FIELD below 0 and above the limit."""
    if not 0 <= asked <= limit:
        raise errors.INVALID_FIELD(
            f"page_size is 0 to {limit}",
            field="page_size",
            limit="page_size",
            value=limit,
            size=asked,
        )
    return asked or default


def check_number(field: str, value: int) -> None:
    """Raises Fault INVALID_FIELD unless 1 to 2^63 - 1."""
    if not 0 < value <= MAX_POSITION:
        raise errors.INVALID_FIELD(f"{field} is 1 to 2^63 - 1", field=field)


def check_size(field: str, size: int, limit: int) -> None:
    """Raises Fault LIMIT_EXCEEDED."""
    if size > limit:
        raise errors.LIMIT_EXCEEDED(
            f"{field} holds at most {limit:,} per request", limit=field, value=limit, size=size
        )


def check_devices(device_ids: Sequence[str]) -> None:
    """Raises Fault BAD_DEVICE_ID, LIMIT_EXCEEDED."""
    check_size("device_ids", len(device_ids), MAX_DEVICES_PER_TARGET)
    if not all(_DEVICE_ID.fullmatch(device_id) for device_id in device_ids):
        raise errors.BAD_DEVICE_ID()
