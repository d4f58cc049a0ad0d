"""What sessions are told of others' presence.

Each session watches its contacts; beside them, on request, users it named and the members of its
open conversation, as far as they are contacts: strangers are shown to nobody, and that they are
watched in vain nobody is told. Interest is counted per account for the whole node and held in one
Watch stream; facts come back and are filtered here, per viewer, by ``core.visibility``:
presence_svc gives facts and knows no privacy. How fast they are put is ``showing``'s.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from chat_svc.core.effects import WatchChanged
from chat_svc.core.extras import MAX_BIGINT
from chat_svc.core.frames import PRESENCE, piece
from chat_svc.core.visibility import Audiences, Facts, Relation, visible
from chat_svc.node.counters import NodeCounters
from chat_svc.node.hints import NodeAddress
from chat_svc.node.live_session import LiveSession
from chat_svc.node.resolver import Resolver
from chat_svc.node.sessions import Sessions
from chat_svc.node.showing import Rendered, Showing
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
RELOAD_AT_ONCE: Final = 20
"""Accounts whose contacts are read in one statement: at most a hundred thousand rows by default."""
RETRY_SECONDS: Final = 1.0
_SELF: Final = Relation(is_self=True)
_CONTACT: Final = Relation(is_contact=True)
_STRANGER: Final = Relation()
_NOBODY: Final[frozenset[int]] = frozenset()

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class ContactRows(Protocol):
    """What is used of the store's contacts."""

    async def contacts_of(self, accounts: Sequence[int], most: int) -> dict[int, list[int]]:
        """Accepted contacts per account, blocked ones left out."""
        ...

    async def contact_pairs(self, pairs: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those that are contacts of each other, neither blocking the other."""
        ...


class PrivacyRows(Protocol):
    """What is used of the store's accounts."""

    async def privacy(self, accounts: Sequence[int]) -> dict[int, Privacy]:
        """Privacy per account."""
        ...


class MemberRows(Protocol):
    """What is used of the store's conversations."""

    async def members_of(self, tenant_id: int, ids: Sequence[int]) -> dict[int, list[int]]:
        """Members per conversation."""
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
        privacy: PrivacyRows,
        members: MemberRows,
        resolver: Resolver,
        sessions: Sessions,
        showing: Showing,
        clock: Clock,
        counters: NodeCounters,
        most_contacts: int,
    ) -> None:
        self._contacts = contacts
        self._privacy = privacy
        self._members = members
        self._resolver = resolver
        self._sessions = sessions
        self._showing = showing
        self._clock = clock
        self._counters = counters
        self._most_contacts = most_contacts
        self._watchers: dict[int, set[LiveSession]] = {}
        self._users: dict[int, str] = {}
        self._facts: dict[int, PresenceFact] = {}
        self._audiences: dict[int, Audiences] = {}
        self._asked: dict[LiveSession, WatchChanged] = {}
        self._fresh: set[LiveSession] = set()  # asked, and not answered yet
        self._private: set[int] = set()  # watched, with another privacy
        self._digest = 0
        self._differing = 0
        self.stream = WatchStream(open_watch, address, self._interest, self._on_response)
        self._refresh: dict[int, int] = {}  # account → number of the last request for it
        self._requests = 0
        self._wake = asyncio.Event()
        showing.render = self._render

    def start(self, session: LiveSession) -> None:
        """A session opened: it shall see its contacts. Done soon, in the background."""
        self.refresh([session.account])

    def refresh(self, accounts: Iterable[int]) -> None:
        """Contacts of these accounts may have changed, or the privacy of their contacts."""
        for account in accounts:
            if self._sessions.of(account):
                self._requests += 1
                self._refresh[account] = self._requests
                self._wake.set()

    def privacy_changed(self, account: int) -> None:
        """An account has another privacy: read it if it is watched here."""
        if account in self._watchers:
            self._private.add(account)
            self._wake.set()

    def asked(self, session: LiveSession, wanted: WatchChanged) -> None:
        """The session said what it watches beside its contacts; what is known is told again."""
        self._asked[session] = wanted
        self._fresh.add(session)
        self.refresh([session.account])

    def stop(self, session: LiveSession) -> None:
        """A session is over."""
        self._showing.forget(session)
        self._asked.pop(session, None)
        self._fresh.discard(session)
        for account in session.watched:
            self._unwatch(account, session)
        session.watched = set()

    async def run(self) -> None:
        """Read contacts of sessions that opened or changed; in the background."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._refresh or self._private:
                try:
                    await self._reload_privacy()
                    await self._reload(list(self._refresh)[:RELOAD_AT_ONCE])
                except Exception as error:  # noqa: BLE001 - the store is away: once more
                    if _budget.take():
                        _log.warning("contacts not read", error=type(error).__name__)
                    await self._clock.sleep(RETRY_SECONDS)

    async def _reload_privacy(self) -> None:
        if self._private:
            wanted = sorted(self._private)
            found = await self._privacy.privacy(wanted)
            self._private.difference_update(wanted)
            self._take_privacy({key: row for key, row in found.items() if key in self._watchers})

    async def _reload(self, accounts: Sequence[int]) -> None:
        if not accounts:
            return
        before = self._requests
        contacts = await self._contacts.contacts_of(accounts, self._most_contacts)
        asked = await self._asked_of(accounts, contacts)
        seen = sorted({*accounts}.union(*contacts.values(), *asked.values()))
        self._users |= await self._resolver.users_of(seen)
        self._take_privacy(await self._privacy.privacy(seen))
        for account in accounts:
            if self._refresh.get(account, 0) <= before:  # else: changed while it was being read
                self._refresh.pop(account, None)
            others = contacts.get(account, [])
            self._counters.contacts_unwatched += len(others) >= self._most_contacts
            wanted = {account, *others}
            for session in self._sessions.of(account):
                named = asked.get(session, _NOBODY)
                self._set_watched(session, wanted if named <= wanted else wanted | named)
                if session in self._fresh and account not in self._refresh:  # else: asked meanwhile
                    self._fresh.discard(session)
                    self._show_known(session, named)
        self._drop_unwatched(seen)

    def _take_privacy(self, found: Mapping[int, Privacy]) -> None:
        """What was shown by another privacy is shown anew, to all who watch here."""
        for account, privacy in found.items():
            before = self._audiences.get(account)
            now = self._audiences[account] = Audiences(privacy.presence, privacy.last_seen)
            if before is not None and before != now:
                for session in self._watchers.get(account, ()):
                    self._show_known(session, (account,))

    async def _asked_of(
        self, accounts: Sequence[int], contacts: dict[int, list[int]]
    ) -> dict[LiveSession, set[int]]:
        """What the accounts' sessions asked for: only contacts among it."""
        found: dict[LiveSession, set[int]] = {}
        pairs: set[tuple[int, int]] = set()
        for account in accounts:
            is_cut = len(contacts[account]) >= self._most_contacts  # else all are watched anyway
            for session in self._sessions.of(account):
                asked = self._asked.get(session)
                if asked is not None and (is_cut or session in self._fresh):
                    found[session] = await self._named(session, asked)
                    pairs |= {(account, other) for other in found[session] if is_cut}
        allowed = await self._contacts.contact_pairs(sorted(pairs)) if pairs else set()
        for session, named in found.items():
            mine = session.account
            allowed_here = {other for other in named if (mine, other) in allowed}
            found[session] = allowed_here | named.intersection(contacts[mine])
        return found

    async def _named(self, session: LiveSession, asked: WatchChanged) -> set[int]:
        rows = await self._resolver.find_accounts(session.identity.tenant, asked.users)
        named = {row.id for row in rows.values()}
        number = asked.open_conversation
        if 0 < number <= MAX_BIGINT and session.sender is not None:
            found = await self._members.members_of(session.sender.tenant_id, [number])
            members = found.get(number, [])
            if session.account in members:
                named |= set(members)
        return named

    def _set_watched(self, session: LiveSession, wanted: set[int]) -> None:
        for account in session.watched - wanted:
            rendered = self._rendered(account, PresenceFact(account_id=account), _STRANGER)
            self._unwatch(account, session)
            self._showing.show(session, account, rendered)
        fresh = wanted - session.watched
        for account in fresh:
            watchers = self._watchers.get(account)
            if watchers is None:
                watchers = self._watchers[account] = set()
                self.stream.add(account)
            watchers.add(session)
        session.watched = wanted
        self._show_known(session, fresh)

    def _show_known(self, session: LiveSession, accounts: Iterable[int]) -> None:
        for account in accounts:
            if (rendered := self._render(session, account)) is not None:
                self._showing.show(session, account, rendered)

    def _unwatch(self, account: int, session: LiveSession) -> None:
        watchers = self._watchers.get(account)
        if watchers is None:
            return
        watchers.discard(session)
        if not watchers:
            del self._watchers[account]
            if (fact := self._facts.pop(account, None)) is not None:
                self._digest ^= _mix(fact)
            self._drop_unwatched([account])
            self.stream.remove(account)

    def _drop_unwatched(self, accounts: Iterable[int]) -> None:
        for account in accounts:
            if account not in self._watchers:
                self._users.pop(account, None)
                self._audiences.pop(account, None)

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
        rendered: dict[Relation, Rendered | None] = {}  # alike for all contacts
        for session in watchers:
            relation = _relation(session, fact.account_id)
            if relation not in rendered:
                rendered[relation] = self._news(fact, known, relation)
            if (news := rendered[relation]) is not None:
                self._showing.show(session, fact.account_id, news)

    def _news(
        self, fact: PresenceFact, known: PresenceFact | None, relation: Relation
    ) -> Rendered | None:
        """What is put before viewers; None when they would see nothing new. Then not even a frame
        tells that something changed: that somebody invisible came, say."""
        now = self._rendered(fact.account_id, fact, relation)
        if known is not None and now == self._rendered(fact.account_id, known, relation):
            return None
        return now

    def _render(self, session: LiveSession, account: int) -> Rendered | None:
        if account not in session.watched:
            return self._rendered(account, PresenceFact(account_id=account), _STRANGER)
        fact = self._facts.get(account)
        return None if fact is None else self._rendered(account, fact, _relation(session, account))

    def _rendered(self, account: int, fact: PresenceFact, relation: Relation) -> Rendered:
        facts = Facts(fact.state, fact.last_seen_ms, fact.status_text, tuple(fact.online_kinds))
        shown = visible(facts, relation, self._audiences.get(account, Audiences()))
        user = self._users.get(account) or self._resolver.user(account)
        return user.encode(), piece(PRESENCE, presence_of(user, shown).SerializeToString())


def presence_of(user: str, shown: Facts) -> Presence:
    """What somebody is shown of a user."""
    return Presence(
        user_id=user,
        state=shown.state,
        last_seen_ms=shown.last_seen_ms,
        status_text=shown.status_text,
        online_kinds=shown.online_kinds,
    )


def _relation(session: LiveSession, account: int) -> Relation:
    """Only contacts and oneself are watched."""
    return _SELF if account == session.account else _CONTACT


def _mix(fact: PresenceFact) -> int:
    return mix_version(fact.account_id, fact.generation, fact.version)
