"""Checks of what a client says in a session, frame by frame: message in, effect or fault out.

Pure; holds no state. Order and state are the machine's.
"""

import re
from typing import Final, NamedTuple

from chat_svc.core import effects
from chat_svc.core.content import Checked, check
from chat_svc.core.extras import check_size
from chat_svc.core.limits import Limits
from chatmesh import errors
from chatmesh.runtime.faults import Fault
from chatmesh.v1.session_pb2 import Hello, Send, SetPresence, Watch
from chatmesh.v1.types_pb2 import PresenceState

MAX_NAME_BYTES: Final = 64
MAX_CAPABILITIES: Final = 16
MAX_STATUS_CODE_POINTS: Final = 140
MAX_USER_ID_CHARACTERS: Final = 128
"""A longer name is nobody's."""
MAX_ANSWERED_BATCH: Final = 1_000
"""A batch above the limit is refused message by message up to here; beyond, the session ends."""
SLIM_ECHO: Final = "slim_echo"
_WISHES: Final = (
    PresenceState.PRESENCE_STATE_ONLINE,
    PresenceState.PRESENCE_STATE_DO_NOT_DISTURB,
    PresenceState.PRESENCE_STATE_INVISIBLE,
)
_DEVICE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Refused(NamedTuple):
    """A message that is not committed."""

    key: bytes
    fault: Fault


def check_hello(hello: Hello) -> effects.Open:
    """The opening frame.

    Raises:
        Fault: BAD_DEVICE_ID, INVALID_FIELD.
    """
    if hello.device_id and not _DEVICE_ID.fullmatch(hello.device_id):
        raise errors.BAD_DEVICE_ID()
    for field in ("device_name", "client_version"):
        check_size(field, len(getattr(hello, field).encode()), "max_name_bytes", MAX_NAME_BYTES)
    check_size("capabilities", len(hello.capabilities), "capabilities", MAX_CAPABILITIES)
    cursor = None
    if hello.HasField("cursor"):
        cursor = (hello.cursor.timeline_seq, hello.cursor.message_id)
    return effects.Open(
        hello.device_id,
        hello.device_kind,
        hello.device_name,
        cursor,
        hello.start,
        SLIM_ECHO in hello.capabilities,
        hello.client_version,
    )


def batch_too_large(limits: Limits, size: int) -> Fault:
    """The refusal of a send with so many messages."""
    return errors.BATCH_TOO_LARGE(limit="max_send_batch", value=limits.max_send_batch, size=size)


def check_send(send: Send, limits: Limits, room: int, wall_ms: int) -> list[Checked | Refused]:
    """What becomes of each message, in order: it goes on, or is refused at once.

    Args:
        room: messages that may still be in flight.

    Raises:
        Fault: BATCH_EMPTY; BATCH_TOO_LARGE where answering each message would be an attack.
    """
    count = len(send.messages)
    if count == 0:
        raise errors.BATCH_EMPTY()
    if count > MAX_ANSWERED_BATCH:
        raise batch_too_large(limits, count)
    outcomes: list[Checked | Refused] = []
    refusal: Fault | None = None
    if count > limits.max_send_batch:
        refusal = batch_too_large(limits, count)
    for message in send.messages:
        if refusal is not None:
            outcomes.append(Refused(message.idempotency_key, refusal))
            continue
        try:
            if room <= 0:
                raise errors.SENDS_IN_FLIGHT(
                    limit="max_sends_in_flight", value=limits.max_sends_in_flight
                )
            outcomes.append(check(message, limits, wall_ms))
            room -= 1
        except Fault as fault:
            outcomes.append(Refused(message.idempotency_key, fault))
            if send.stop_on_error:
                refusal = errors.PREVIOUS_REFUSED()
    return outcomes


def check_presence(wish: SetPresence) -> effects.PresenceWish:
    """A lasting presence. A state that nobody can wish for is taken as none.

    Raises:
        Fault: INVALID_FIELD.
    """
    text = wish.status_text if wish.HasField("status_text") else None
    if text is not None:
        check_size(
            "set_presence.status_text", len(text), "max_status_code_points", MAX_STATUS_CODE_POINTS
        )
    if text is not None and any(ord(sign) < 0x20 or ord(sign) == 0x7F for sign in text):
        raise errors.INVALID_FIELD(
            "a status text holds no control characters", field="set_presence.status_text"
        )
    state = wish.state if wish.state in _WISHES else PresenceState.PRESENCE_STATE_UNSPECIFIED
    return effects.PresenceWish(state, text, max(wish.status_until_ms, 0))


def check_watch(watch: Watch, watched: set[str], limits: Limits) -> set[str]:
    """Interest in others' presence: the users named by the session, after this frame.

    Raises:
        Fault: LIMIT_EXCEEDED: one frame, or all that are watched now.
    """
    most = limits.max_watched_users
    named = {user for user in watch.user_ids if len(user) <= MAX_USER_ID_CHARACTERS}
    after = watched - named if watch.remove else watched | named
    if len(watch.user_ids) > most or len(after) > most:
        raise errors.LIMIT_EXCEEDED(limit="max_watched_users", value=most, size=len(after))
    return after
