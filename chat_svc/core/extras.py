"""What a message may carry beside its content: checks, and the Event fields 10-18 they become.

Pure. Called only for messages that carry any of it; ``content`` sees to that. A message is changed
in nothing: fields are copied one by one, which leaves unknown ones behind.
"""

import re
from typing import Final, Protocol

from chat_svc.core.limits import Limits
from chatmesh import errors
from chatmesh.v1 import types_pb2
from chatmesh.v1.types_pb2 import Event, OutgoingMessage, PushOptions

MAX_BIGINT: Final = (1 << 63) - 1
"""PostgreSQL's bigint ends where uint64 is half full; no id or position is above it."""
MAX_USER_ID_CHARACTERS: Final = 128
MAX_MEDIA_TYPE_BYTES: Final = 127
MAX_URI_BYTES: Final = 2_048
MAX_NAME_BYTES: Final = 255
MAX_COLLAPSE_KEY_BYTES: Final = 64
SHA256_BYTES: Final = 32

_MEDIA_TYPE: Final = re.compile(
    r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*(?: *;[ -~]*)?", re.ASCII | re.IGNORECASE
)
"""RFC 6838 section 4.2, with parameters."""

NOTIFIES: Final = 2
"""The bit of ``EventFlags.NOTIFIES``; a silent message loses it."""


class Draft(Protocol):
    """What of a checked message the extras change."""

    flags: int
    target_seq: int
    expires_at_ms: int
    body: bytes
    mentions: tuple[str, ...]


def add_extras(draft: Draft, message: OutgoingMessage, limits: Limits, wall_ms: int) -> None:
    """Check everything beside key, destination and content, and add it to the draft's body.

    Raises:
        Fault: INVALID_ARGUMENT with a reason of the error table, or TARGET_UNKNOWN.
    """
    event = Event()
    _references(event, draft, message)
    if message.silent:
        event.silent = True
        draft.flags &= ~NOTIFIES
    if message.expires_at_ms:
        if not wall_ms < message.expires_at_ms <= MAX_BIGINT:
            raise errors.INVALID_FIELD("expires_at_ms lies in the past", field="expires_at_ms")
        event.expires_at_ms = draft.expires_at_ms = message.expires_at_ms
    event.encrypted = message.encrypted
    _metadata(event, message, limits)
    _mentions(event, draft, message, limits)
    _attachments(event, message, limits)
    if message.HasField("forwarded_from"):
        origin = message.forwarded_from
        _user_id(origin.user_id, "forwarded_from.user_id")
        event.forwarded_from.user_id = origin.user_id
        event.forwarded_from.created_at_ms = origin.created_at_ms
    if message.HasField("push"):
        _push(event, message.push)
    draft.body += event.SerializeToString(deterministic=True)  # maps by key: the hash needs it


def check_size(field: str, size: int, limit: str, value: int) -> None:
    """Raises Fault INVALID_FIELD, naming the limit (of chatmesh.limits), for what is larger."""
    if size > value:
        raise errors.INVALID_FIELD(
            f"{field} is larger than allowed", field=field, limit=limit, value=value, size=size
        )


def _push(event: Event, wish: PushOptions) -> None:
    key_bytes = len(wish.collapse_key.encode())
    check_size("push.collapse_key", key_bytes, "max_collapse_key_bytes", MAX_COLLAPSE_KEY_BYTES)
    if wish.priority not in PushOptions.Priority.values():
        raise errors.INVALID_FIELD("no such priority", field="push.priority")
    event.push.priority = wish.priority
    event.push.collapse_key = wish.collapse_key


def check_media_type(media_type: str, field: str) -> None:
    """RFC 6838.

    Raises:
        Fault: INVALID_FIELD naming ``field``.
    """
    if len(media_type) > MAX_MEDIA_TYPE_BYTES or not _MEDIA_TYPE.fullmatch(media_type):
        raise errors.INVALID_FIELD("not a media type", field=field)


def _references(event: Event, draft: Draft, message: OutgoingMessage) -> None:
    reply, root = message.reply_to_conversation_seq, message.thread_root_conversation_seq
    if reply > MAX_BIGINT or root > MAX_BIGINT:
        raise errors.TARGET_UNKNOWN()
    event.reply_to_conversation_seq = reply
    event.thread_root_conversation_seq = root
    # One target is checked in the commit. An edit's own target comes first; a reply names it
    # more closely than the thread it stands in.
    draft.target_seq = draft.target_seq or reply or root


def _metadata(event: Event, message: OutgoingMessage, limits: Limits) -> None:
    if not message.metadata:
        return
    pairs = dict(message.metadata)
    check_size("metadata", len(pairs), "max_metadata_pairs", limits.max_metadata_pairs)
    size_bytes = sum(len(k.encode()) + len(v.encode()) for k, v in pairs.items())
    check_size("metadata", size_bytes, "max_metadata_bytes", limits.max_metadata_bytes)
    event.metadata.update(pairs)


def _mentions(event: Event, draft: Draft, message: OutgoingMessage, limits: Limits) -> None:
    if not message.mention_user_ids:
        return
    mentions = len(message.mention_user_ids)
    check_size("mention_user_ids", mentions, "max_mentions", limits.max_mentions)
    for user in message.mention_user_ids:
        _user_id(user, "mention_user_ids")
    event.mention_user_ids.extend(message.mention_user_ids)
    draft.mentions = tuple(dict.fromkeys(message.mention_user_ids))


def _attachments(event: Event, message: OutgoingMessage, limits: Limits) -> None:
    check_size("attachments", len(message.attachments), "max_attachments", limits.max_attachments)
    for place, attachment in enumerate(message.attachments):
        field = f"attachments[{place}]"
        uri = attachment.uri
        if not uri.startswith("https://") or len(uri.encode()) > MAX_URI_BYTES:
            raise errors.INVALID_FIELD("an attachment is an https URI", field=f"{field}.uri")
        if not uri.isprintable() or " " in uri:
            raise errors.INVALID_FIELD("an attachment is an https URI", field=f"{field}.uri")
        check_media_type(attachment.media_type, f"{field}.media_type")
        if attachment.size_bytes < 0:
            raise errors.INVALID_FIELD(field=f"{field}.size_bytes")
        if len(attachment.sha256) != SHA256_BYTES:
            raise errors.INVALID_FIELD("SHA-256 has 32 bytes", field=f"{field}.sha256")
        name_bytes = len(attachment.name.encode())
        check_size(f"{field}.name", name_bytes, "max_name_bytes", MAX_NAME_BYTES)
        event.attachments.append(
            types_pb2.Attachment(
                uri=uri,
                media_type=attachment.media_type,
                size_bytes=attachment.size_bytes,
                sha256=attachment.sha256,
                name=attachment.name,
            )
        )


def _user_id(user: str, field: str) -> None:
    if not 1 <= len(user) <= MAX_USER_ID_CHARACTERS:
        raise errors.INVALID_FIELD("a user id has 1 to 128 characters", field=field)
