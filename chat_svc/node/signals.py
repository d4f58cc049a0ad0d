"""Receipts, typing and counts on their way to accounts: no row, no push, at most once.

A signal is a one-piece ServerFrame with a key; the newest of a key wins wherever it waits. Sessions
on this node get it at once; the rest of the mesh through the same queue as hints. Two signals carry
no frame, for they are for the nodes of an account's sessions: that its contacts changed, and that
somebody it watches has another privacy.
"""

from collections.abc import Callable, Iterable
from typing import Final

from chat_svc.core.frames import PONG, RECEIPTS, TYPING, piece, section_of
from chat_svc.node.counters import NodeCounters
from chat_svc.node.hints import HintSigner, NodeAddress, signal_frame
from chat_svc.node.outbox import Outbox
from chat_svc.node.sessions import Sessions
from chatmesh.mesh.v1.hint_pb2 import Signal
from chatmesh.runtime.clock import Clock
from chatmesh.v1.session_pb2 import Pong, Receipt, Typing

MAX_SIGNALS_PER_FRAME: Final = 500
TYPING_SECONDS: Final = 6
_CONTACTS: Final = b"c"
_PRIVACY: Final = b"v"


class Signals:
    """Collects signals and sends them with `flush`; its owners call that a few times a second."""

    def __init__(
        self,
        sessions: Sessions,
        outbox: Outbox,
        signer: HintSigner,
        address: NodeAddress,
        clock: Clock,
        counters: NodeCounters,
    ) -> None:
        self._sessions = sessions
        self._outbox = outbox
        self._signer = signer
        self._address = address
        self._clock = clock
        self._counters = counters
        self._waiting: dict[tuple[int, bytes], Signal] = {}
        self.on_contacts: Callable[[Iterable[int]], None] = lambda _accounts: None
        """Told of accounts with sessions here whose contacts or blocks changed, on any node."""
        self.on_privacy: Callable[[int], None] = lambda _account: None
        """Told of accounts whose privacy changed, on any node, and that may be watched here."""

    def receipt(self, account: int, receipt: Receipt) -> None:
        """``account`` shall see how far a member has got."""
        key = b"r%d/%b" % (receipt.conversation_id, receipt.user_id.encode())
        if receipt.member_count:  # aggregated: one for each mark, with a count of its own
            key += b"/read" if receipt.read_message_no else b"/delivered"
        self._add(account, key, piece(RECEIPTS, receipt.SerializeToString()))

    def typing(self, account: int, conversation: int, user: str, active: bool) -> None:
        """``account`` shall see that somebody types, or stopped."""
        typing = Typing(
            conversation_id=conversation,
            user_id=user,
            active=active,
            expires_in_ms=TYPING_SECONDS * 1_000 if active else 0,
        )
        key = b"t%d/%b" % (conversation, user.encode())
        self._add(account, key, piece(TYPING, typing.SerializeToString()))

    def counts(self, account: int, version: int, unread: int, mentions: int) -> None:
        """All sessions of ``account`` shall know that its own state changed."""
        pong = Pong(
            account_version=version,
            unread=unread,
            mentions=mentions,
            server_time_ms=self._clock.wall_ms(),
        )
        self._add(account, b"p", piece(PONG, pong.SerializeToString()))

    def contacts_changed(self, accounts: Iterable[int]) -> None:
        """Contacts or blocks of these accounts changed: what their sessions watch is read anew."""
        for account in accounts:
            self._add(account, _CONTACTS, b"")

    def privacy_changed(self, account: int, watchers: Iterable[int]) -> None:
        """``account`` has another privacy: nodes with sessions of its watchers read it anew."""
        key = b"%b%d" % (_PRIVACY, account)
        for watcher in (account, *watchers):
            self._add(watcher, key, b"")

    def arrived(self, signal: Signal) -> None:
        """A signal by way of the queue. This node's own were told here when they left; one that
        no chat node signed a moment ago is a forgery, or too late to mean anything."""
        if signal.node_id == self._address.node_id:
            return
        if self._signer.is_genuine(signal, self._clock.wall_ms()):
            self._tell(signal)
        else:
            self._counters.signals_refused += 1

    def _tell(self, signal: Signal) -> None:
        if not signal.frame:
            self._tell_node(signal)
            return
        section = section_of(signal.frame)
        if section is not None:
            for session in self._sessions.of(signal.account_id):
                session.machine.put(section, signal.coalesce_key, signal.frame)
                if section == PONG:
                    session.machine.counts_told()
                session.settle()

    def _tell_node(self, signal: Signal) -> None:
        key = signal.coalesce_key
        if key == _CONTACTS:
            self.on_contacts([signal.account_id])
        elif key.startswith(_PRIVACY) and key[1:].isdigit():
            self.on_privacy(int(key[1:]))

    def flush(self) -> None:
        """Tell the sessions here, and hand everything to the queue."""
        if not self._waiting:
            return
        waiting, self._waiting = list(self._waiting.values()), {}
        now_ms = self._clock.wall_ms()
        self._signer.sign(waiting, self._address.node_id, now_ms)
        for signal in waiting:
            self._tell(signal)
        for start in range(0, len(waiting), MAX_SIGNALS_PER_FRAME):
            part = waiting[start : start + MAX_SIGNALS_PER_FRAME]
            self._outbox.signal(signal_frame(self._address, part, now_ms=now_ms))
        self._counters.signals_sent += len(waiting)

    def _add(self, account: int, key: bytes, frame: bytes) -> None:
        self._waiting[account, key] = Signal(account_id=account, frame=frame, coalesce_key=key)
