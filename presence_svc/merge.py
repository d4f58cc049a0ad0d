"""One user's presence, merged over all devices. The table is in docs/presence.md.

Pure: `merge` is the only place that decides what a user's sessions and wishes amount to. It knows
nothing of who asks; privacy is the chat node's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class State(IntEnum):
    """The numbers of `chatmesh.v1.PresenceState`."""

    UNKNOWN = 0
    OFFLINE = 1
    AWAY = 2
    ONLINE = 3
    DO_NOT_DISTURB = 4
    INVISIBLE = 5


WISHES = frozenset((State.ONLINE, State.DO_NOT_DISTURB, State.INVISIBLE))
"""What a user may wish to be; the other states follow from sessions."""


_SEEN = frozenset((State.AWAY, State.ONLINE, State.DO_NOT_DISTURB))


@dataclass(frozen=True, slots=True)
class Session:
    """A session on a live node. `kind` is a number of `chatmesh.v1.DeviceKind`."""

    node_id: int
    device_id: str
    session_no: int
    kind: int
    active: bool
    """False: in the background or idle."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked to be, on all devices, until asked otherwise."""

    state: State = State.ONLINE
    status_text: str = ""
    status_until_ms: int = 0
    """Unix ms; 0 = never ends."""

    def text_at(self, now_ms: int) -> str:
        """The status text, if it has not ended."""
        ended = 0 < self.status_until_ms <= now_ms
        return "" if ended else self.status_text


@dataclass(frozen=True, slots=True)
class Fact:
    """A user's merged presence before privacy."""

    state: State
    online_kinds: tuple[int, ...] = ()
    """Kinds of live sessions, each once, rising."""
    last_seen_ms: int = 0
    """Unix ms of the last end of a session that others could see; 0 = never known, and while a
    session can be seen: then a reconnect changes nothing."""
    status_text: str = ""


def merge(
    sessions: Iterable[Session],
    wish: Wish | None,
    *,
    last_seen_ms: int,
    now_ms: int,
    unknown: bool,
) -> Fact:
    """Merge one user's devices.

    Args:
        sessions: those on live nodes, at most one per device.
        wish: None when the user never said one.
        last_seen_ms: as recorded.
        now_ms: Unix ms, for the end of the status text.
        unknown: presence has started empty less than a lease ago, so no session is no news.
    """
    live = tuple(sessions)
    wish = wish or Wish()
    state = _state(live, wish, unknown)
    return Fact(
        state=state,
        online_kinds=tuple(sorted({session.kind for session in live})),
        last_seen_ms=0 if state in _SEEN else last_seen_ms,
        status_text=wish.text_at(now_ms),
    )


def _state(live: tuple[Session, ...], wish: Wish, unknown: bool) -> State:
    if not live:
        return State.UNKNOWN if unknown else State.OFFLINE
    if wish.state in (State.DO_NOT_DISTURB, State.INVISIBLE):
        return wish.state
    return State.ONLINE if any(session.active for session in live) else State.AWAY
