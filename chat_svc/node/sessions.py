"""Which sessions live on this node; the newest of a device wins.

Also the node's count and digest of sessions, which presence compares with what it believes.
"""

from collections.abc import Iterator

from chat_svc.node.live_session import LiveSession
from chatmesh.digest import mix_session
from chatmesh.runtime import metrics

NO_SESSIONS: tuple[LiveSession, ...] = ()


class Sessions:
    """Live sessions by account and by token."""

    def __init__(self) -> None:
        self._by_account: dict[int, tuple[LiveSession, ...]] = {}
        self._by_token: dict[str, LiveSession] = {}
        self._gauge = metrics.gauge(metrics.SESSIONS)
        self.count = 0
        self.digest = 0

    def of(self, account: int) -> tuple[LiveSession, ...]:
        """Sessions of an account; empty for none."""
        return self._by_account.get(account, NO_SESSIONS)

    def by_token(self, token: str) -> LiveSession | None:
        """The session that `welcome.session_token` named."""
        return self._by_token.get(token)

    def of_device(self, account: int, device_id: str) -> LiveSession | None:
        """The session of one device."""
        for session in self.of(account):
            if session.device_id == device_id:
                return session
        return None

    def add(self, session: LiveSession) -> LiveSession | None:
        """Register an opened session; the older one of the same device, taken out.

        None is also the answer when the device's session here is newer: the caller compares.
        """
        older = self.of_device(session.account, session.device_id)
        if older is not None:
            self.remove(older)
        self._by_account[session.account] = (*self.of(session.account), session)
        self._by_token[session.token] = session
        self._changed(session, 1)
        return older

    def remove(self, session: LiveSession) -> bool:
        """Take a session out; False when it was not registered (any more)."""
        left = self.of(session.account)
        if session not in left:
            return False
        rest = tuple(other for other in left if other is not session)
        if rest:
            self._by_account[session.account] = rest
        else:
            del self._by_account[session.account]
        self._by_token.pop(session.token, None)
        self._changed(session, -1)
        return True

    def __iter__(self) -> Iterator[LiveSession]:
        for sessions in list(self._by_account.values()):
            yield from sessions

    def accounts(self) -> list[int]:
        """Accounts with a session here."""
        return list(self._by_account)

    def _changed(self, session: LiveSession, by: int) -> None:
        self.count += by
        self.digest ^= mix_session(session.account, session.session_no)
        self._gauge.set(self.count)
