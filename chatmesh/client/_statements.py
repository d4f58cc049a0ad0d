"""Small frames that set a state: read marks, typing, presence, app state, watches, tokens. Pure.

They have no answer of their own. Frames are handled in order, so the pong of a later ping proves
that they were; until then they are said again in the next session. All of them set a state, so
saying one twice is harmless. The newest per key wins while it waits: bounded by the keys.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

from chatmesh.v1 import session_pb2 as pb

MAX_PENDING: Final = 4096
"""Distinct states that wait at most; above it the oldest is dropped (a read mark is monotonic and
the next one repairs it)."""


class Statements:
    """What shall be said, what was said and is not proved yet, what every session is told."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, pb.ClientFrame] = {}
        self._unproved: dict[Hashable, tuple[int, pb.ClientFrame]] = {}
        self._nonce = 0
        self._app_state: pb.ClientFrame | None = None
        self._watched: dict[str, None] = {}
        self._open_conversation = 0

    # -- the application says ----------------------------------------------------------------------

    def mark_read(self, conversation_id: int, message_no: int) -> None:
        """Monotonic: a lower number than one that waits is dropped."""
        key = ("read", conversation_id)
        for frame in (self._waiting.get(key), self._unproved.get(key, (0, None))[1]):
            if frame is not None and frame.mark_read.message_no >= message_no:
                return
        mark = pb.MarkRead(conversation_id=conversation_id, message_no=message_no)
        self._put(key, pb.ClientFrame(mark_read=mark))

    def typing(self, conversation_id: int, active: bool) -> None:
        """Ephemeral: lost with the session."""
        typing = pb.SetTyping(conversation_id=conversation_id, active=active)
        self._put(("typing", conversation_id), pb.ClientFrame(typing=typing))

    def set_presence(self, presence: pb.SetPresence) -> None:
        """Lasting wish of the user."""
        self._put("presence", pb.ClientFrame(set_presence=presence))

    def app_state(self, state: pb.AppState.State.ValueType) -> None:
        """Said again in every session."""
        self._app_state = pb.ClientFrame(app_state=pb.AppState(state=state))
        self._put("app", self._app_state)

    def watch(self, user_ids: Sequence[str], open_conversation_id: int | None) -> None:
        """Adds to what is watched; said again in every session."""
        self._watched.update(dict.fromkeys(user_ids))
        if open_conversation_id is not None:
            self._open_conversation = open_conversation_id
        self._put("watch", self._watch_frame())

    def unwatch(self, user_ids: Sequence[str]) -> None:
        """Takes users back."""
        for user_id in user_ids:
            self._watched.pop(user_id, None)
        frame = pb.Watch(
            user_ids=user_ids, open_conversation_id=self._open_conversation, remove=True
        )
        self._put(("unwatch", tuple(user_ids)), pb.ClientFrame(watch=frame))

    def renew_token(self, token: str) -> None:
        """Lost with the session: the next one opens with the newest token anyway."""
        self._put("token", pb.ClientFrame(renew_token=pb.RenewToken(token=token)))

    def _watch_frame(self) -> pb.ClientFrame:
        watch = pb.Watch(user_ids=list(self._watched), open_conversation_id=self._open_conversation)
        return pb.ClientFrame(watch=watch)

    def _put(self, key: Hashable, frame: pb.ClientFrame) -> None:
        self._waiting.pop(key, None)
        self._waiting[key] = frame
        if len(self._waiting) > MAX_PENDING:
            del self._waiting[next(iter(self._waiting))]

    # -- the session asks --------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Whether something shall be said."""
        return bool(self._waiting)

    def next_frame(self) -> pb.ClientFrame | None:
        """The oldest statement, now said but not proved."""
        if not self._waiting:
            return None
        key = next(iter(self._waiting))
        frame = self._waiting.pop(key)
        if _outlives_session(frame):
            self._unproved.pop(key, None)
            self._unproved[key] = (self._nonce + 1, frame)
            if len(self._unproved) > MAX_PENDING:
                del self._unproved[next(iter(self._unproved))]
        return frame

    def pinged(self, nonce: int) -> None:
        """A ping went; what was said before is proved by its pong."""
        self._nonce = nonce

    def confirmed(self, nonce: int) -> None:
        """The pong came."""
        for key in [key for key, (by, _) in self._unproved.items() if by <= nonce]:
            del self._unproved[key]

    def session_lost(self) -> None:
        """What was not proved waits again, before what is newer; every session's part is added."""
        again: dict[Hashable, pb.ClientFrame] = {}
        if self._app_state is not None:
            again["app"] = self._app_state
        if self._watched or self._open_conversation:
            again["watch"] = self._watch_frame()
        again.update({key: frame for key, (_, frame) in self._unproved.items()})
        again.update(
            {key: frame for key, frame in self._waiting.items() if _outlives_session(frame)}
        )
        self._waiting, self._unproved, self._nonce = again, {}, 0


def _outlives_session(frame: pb.ClientFrame) -> bool:
    return frame.WhichOneof("kind") in ("mark_read", "set_presence")
