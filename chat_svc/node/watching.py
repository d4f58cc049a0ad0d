"""What sessions are told of others' presence.

Each session watches its contacts, and users it named. Interest is counted per account for the whole
node and held in one Watch stream; facts come back and are filtered here, per viewer, by
``core.visibility``: presence_svc gives facts and knows no privacy.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from chat_svc.core.frames import PRESENCE, piece
from chat_svc.core.visibility import Audiences, Facts, Relation, visible
from chat_svc.node.hints import NodeAddress
from chat_svc.node.live_session import LiveSession
from chat_svc.node.resolver import Resolver
from chat_svc.node.sessions import Sessions
from chat_svc.store.accounts import Privacy
from chatmesh.digest import mix_version
from chatmesh.mesh.v1.presence_pb2 import PresenceFact, WatchRequest, WatchResponse
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.reopening import ReopeningStream, StreamCall
from chatmesh.v1.session_pb2 import Presence

MAX_ACCOUNTS_PER_REQUEST: Final = 10_000
MAX_DIFFERING_DIGESTS: Final = 2
"""One difference may be a fact under way; two in a row ask for everything again."""
RETRY_SECONDS: Final = 1.0
_STRANGER: Final = Relation()

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class ContactRows(Protocol):
    """What is used of the store's accounts."""

    async def contacts_of(self, accounts: Sequence[int]) -> dict[int, list[int]]:
        """Accepted contacts per account, blocked ones left out."""
        ...

    async def privacy(self, accounts: Sequence[int]) -> dict[int, Privacy]:
        """Privacy per account."""
        ...


class WatchStream(ReopeningStream[WatchResponse]):
    """The node's interest on one stream: all of it again after each opening, then changes."""

    def __init__(
        self,
        open_watch: Callable[[], Any],
        address: NodeAddress,
        interest: Callable[[], list[int]],
        on_response: Callable[[WatchResponse], None],
    ) -> None:
        super().__init__(open_watch, name="presence watch")
        self._address = address
        self._interest = interest
        self._on_response = on_response
        self._changes: dict[int, bool] = {}

    def add(self, account: int) -> None:
        """Watch an account from now on."""
        self._changes[account] = True
        self._wake.set()

    def remove(self, account: int) -> None:
        """No longer."""
        self._changes[account] = False
        self._wake.set()

    def ask_again(self) -> None:
        """Everything once more: what we hold is not what presence holds."""
        self._changes |= dict.fromkeys(self._interest(), True)
        self._wake.set()

    def _opened(self) -> None:
        self._changes = dict.fromkeys(self._interest(), True)

    async def _write(self, call: StreamCall) -> None:
        await call.write(WatchRequest(node_id=self._address.node_id))
        while True:
            while self._changes:
                part = dict(list(self._changes.items())[:MAX_ACCOUNTS_PER_REQUEST])
                for account in part:
                    del self._changes[account]
                await call.write(
                    WatchRequest(
                        add_account_ids=[account for account, wanted in part.items() if wanted],
                        remove_account_ids=[a for a, wanted in part.items() if not wanted],
                    )
                )
            self._wake.clear()
            await self._wake.wait()

    def _handle(self, response: WatchResponse) -> None:
        self._on_response(response)


class Watching:
    """See the module's text."""

    def __init__(
        self,
        open_watch: Callable[[], Any],
        address: NodeAddress,
        contacts: ContactRows,
        resolver: Resolver,
        sessions: Sessions,
        clock: Clock,
    ) -> None:
        self._contacts = contacts
        self._resolver = resolver
        self._sessions = sessions
        self._clock = clock
        self._watchers: dict[int, set[LiveSession]] = {}
        self._facts: dict[int, PresenceFact] = {}
        self._audiences: dict[int, Audiences] = {}
        self._digest = 0
        self._differing = 0
        self.stream = WatchStream(open_watch, address, self._interest, self._on_response)
        self._refresh: dict[int, int] = {}  # account → number of the last request for it
        self._requests = 0
        self._wake = asyncio.Event()

    def start(self, session: LiveSession) -> None:
        """A session opened: it shall see its contacts. Done soon, in the background."""
        self.refresh([session.account])

    def refresh(self, accounts: Iterable[int]) -> None:
        """Contacts of these accounts may have changed."""
        for account in accounts:
            if self._sessions.of(account):
                self._requests += 1
                self._refresh[account] = self._requests
                self._wake.set()

    def stop(self, session: LiveSession) -> None:
        """A session is over."""
        for account in session.watched:
            self._unwatch(account, session)
        session.watched = set()

    async def run(self) -> None:
        """Read contacts of sessions that opened or changed; in the background."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            accounts = list(self._refresh)
            try:
                await self._reload(accounts)
            except Exception as error:  # noqa: BLE001 - the store is away: once more
                if _budget.take():
                    _log.warning("contacts not read", error=type(error).__name__)
                self._wake.set()
                await self._clock.sleep(RETRY_SECONDS)

    async def _reload(self, accounts: Sequence[int]) -> None:
        before = self._requests
        contacts = await self._contacts.contacts_of(accounts)
        seen = sorted({other for others in contacts.values() for other in others})
        await self._resolver.users_of([*seen, *accounts])
        for account, privacy in (await self._contacts.privacy(seen)).items():
            self._audiences[account] = Audiences(privacy.presence, privacy.last_seen)
        for account in accounts:
            if self._refresh.get(account, 0) <= before:  # else: changed while it was being read
                self._refresh.pop(account, None)
            wanted = {account, *contacts.get(account, ())}
            for session in self._sessions.of(account):
                self._set_watched(session, wanted)

    def _set_watched(self, session: LiveSession, wanted: set[int]) -> None:
        for account in session.watched - wanted:
            self._unwatch(account, session)
            self._tell(session, account, PresenceFact(account_id=account), _STRANGER)
        for account in wanted - session.watched:
            watchers = self._watchers.get(account)
            if watchers is None:
                watchers = self._watchers[account] = set()
                self.stream.add(account)
            watchers.add(session)
            if (fact := self._facts.get(account)) is not None:
                self._tell(session, account, fact, _relation(session, account))
        session.watched = wanted

    def _unwatch(self, account: int, session: LiveSession) -> None:
        watchers = self._watchers.get(account)
        if watchers is None:
            return
        watchers.discard(session)
        if not watchers:
            del self._watchers[account]
            self._audiences.pop(account, None)
            if (fact := self._facts.pop(account, None)) is not None:
                self._digest ^= _mix(fact)
            self.stream.remove(account)

    def _interest(self) -> list[int]:
        return list(self._watchers)

    def _on_response(self, response: WatchResponse) -> None:
        for fact in response.facts:
            self._on_fact(fact)
        if response.has_digest:
            self._differing = self._differing + 1 if response.digest != self._digest else 0
            if self._differing >= MAX_DIFFERING_DIGESTS:
                self._differing = 0
                self.stream.ask_again()

    def _on_fact(self, fact: PresenceFact) -> None:
        watchers = self._watchers.get(fact.account_id)
        if watchers is None:
            return
        known = self._facts.get(fact.account_id)
        if known is not None:
            if known.generation == fact.generation and known.version >= fact.version:
                return
            self._digest ^= _mix(known)
        self._facts[fact.account_id] = fact
        self._digest ^= _mix(fact)
        for session in watchers:
            self._tell(session, fact.account_id, fact, _relation(session, fact.account_id))

    def _tell(
        self, session: LiveSession, account: int, fact: PresenceFact, relation: Relation
    ) -> None:
        facts = Facts(fact.state, fact.last_seen_ms, fact.status_text, tuple(fact.online_kinds))
        shown = visible(facts, relation, self._audiences.get(account, Audiences()))
        user = self._resolver.user(account)
        presence = Presence(
            user_id=user,
            state=shown.state,
            last_seen_ms=shown.last_seen_ms,
            status_text=shown.status_text,
            online_kinds=shown.online_kinds,
        )
        session.machine.put(PRESENCE, user.encode(), piece(PRESENCE, presence.SerializeToString()))
        session.settle()


def _relation(session: LiveSession, account: int) -> Relation:
    """Only contacts and oneself are watched."""
    return Relation(is_self=account == session.account, is_contact=True)


def _mix(fact: PresenceFact) -> int:
    return mix_version(fact.account_id, fact.generation, fact.version)
