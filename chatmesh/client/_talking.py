"""What comes by itself, and the small things a device says. Part of `Client`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

from chatmesh.client import _values as v
from chatmesh.client._events import ClientEvent
from chatmesh.client._hub import Hub
from chatmesh.client._inbox import Entries
from chatmesh.client._runner import Runner
from chatmesh.client._session import Session
from chatmesh.client._topic import Subscription
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1.types_pb2 import PresenceState as PresenceNumber


class Talking:
    """Iterators over what is received, and statements."""

    _session: Session
    _hub: Hub
    _runner: Runner
    _auto_ack: bool

    def _check_open(self) -> None:
        raise NotImplementedError

    def _check_started(self) -> None:
        raise NotImplementedError

    # -- receiving ---------------------------------------------------------------------------------

    def entries(self) -> Entries:
        """Everything said in all the user's conversations, in order, each once, for ever.

        One iteration at a time. Store an entry before you ask for the next one: that acks it.
        """
        self._check_started()
        return Entries(self._hub.inbox, auto_ack=self._auto_ack)

    def receipts(self) -> Subscription[v.Receipt]:
        """How far others have got; first what is known already, the newest per member."""
        self._check_started()
        return self._hub.receipts.subscribe()

    def presence(self) -> Subscription[v.Presence]:
        """Contacts and watched users; first what is known already."""
        self._check_started()
        return self._hub.presence.subscribe()

    def typing(self) -> Subscription[v.Typing]:
        """Who types, from now on."""
        self._check_started()
        return self._hub.typing.subscribe()

    def events(self) -> Subscription[ClientEvent]:
        """What happened to this client (the newest 64 events) and what happens from now on."""
        self._check_started()
        return self._hub.events.subscribe()

    # -- saying ------------------------------------------------------------------------------------

    def mark_read(self, conversation_id: int, message_no: int) -> None:
        """The user has read up to this visible message; survives reconnects."""
        self._say(lambda: self._session.statements.mark_read(conversation_id, message_no))

    def set_typing(self, conversation_id: int, active: bool = True) -> None:
        """The user types; ends by itself after a few seconds."""
        self._say(lambda: self._session.statements.typing(conversation_id, active))

    def set_presence(
        self,
        state: v.PresenceState = v.PresenceState.UNKNOWN,
        *,
        status_text: str | None = None,
        status_until_ms: int = 0,
    ) -> None:
        """The user's lasting wish: ONLINE, DO_NOT_DISTURB or INVISIBLE (UNKNOWN leaves it), and a
        status text (empty clears it, None leaves it)."""
        wish = pb.SetPresence(
            state=cast("PresenceNumber.ValueType", int(state)), status_until_ms=status_until_ms
        )
        if status_text is not None:
            wish.status_text = status_text
        self._say(lambda: self._session.statements.set_presence(wish))

    def app_state(self, state: Literal["foreground", "background"]) -> None:
        """Where the application is; said again in every session."""
        number = pb.AppState.STATE_BACKGROUND
        if state == "foreground":
            number = pb.AppState.STATE_FOREGROUND
        self._say(lambda: self._session.statements.app_state(number))

    def watch(self, *user_ids: str, open_conversation_id: int | None = None) -> None:
        """Watch users besides the contacts, and the members of the conversation on screen
        (0 = none)."""
        self._say(lambda: self._session.statements.watch(user_ids, open_conversation_id))

    def unwatch(self, *user_ids: str) -> None:
        """No longer watch users."""
        self._say(lambda: self._session.statements.unwatch(user_ids))

    def _say(self, statement: Callable[[], None]) -> None:
        self._check_open()
        statement()
        self._runner.wake()
