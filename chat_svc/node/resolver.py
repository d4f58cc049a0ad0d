"""Who and where: user ids to accounts, destinations to conversations, for whole batches at once.

Everything that a batch needs and the caches lack is read or made in one query each, before the
commit: accounts and conversations are made in transactions of their own. What is cached never
changes its meaning (an account's id, a pair's conversation, a conversation's kind); what may change
(membership, blocks, disabled accounts) is checked in the commit, under its locks. Unknown users are
never cached: they may sign in the next moment.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from chat_svc.core.batch import PendingSend
from chat_svc.core.standing import refusal
from chat_svc.store.accounts import AccountRow, AccountStore
from chat_svc.store.conversations import DIRECT, GROUP, SELF, ConversationStore, Pair
from chatmesh import errors
from chatmesh.errors import Refusal
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.identity import Identity, is_clean_text

CACHED_ACCOUNTS: Final = 200_000
CACHED_CONVERSATIONS: Final = 200_000
"""About 300 bytes each; the coldest leave first."""
MAX_USER_ID_CHARACTERS: Final = 128

NewIds = Callable[[int], Awaitable[list[int]]]
K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(dict[K, V], Generic[K, V]):
    """A dict that forgets what was put in first when it is full."""

    def __init__(self, max_items: int) -> None:
        super().__init__()
        self._max_items = max_items

    def put(self, key: K, value: V) -> None:
        """Add or replace."""
        if len(self) >= self._max_items and key not in self:
            del self[next(iter(self))]
        self[key] = value


@dataclass(slots=True)
class Place:
    """What the path needs to know of a conversation."""

    id: int
    kind: int
    low: int
    """Direct and self: the lower account. Groups: 0."""
    high: int
    weight: int
    """Timeline rows that a message makes: members, as last seen."""

    def peer_of(self, sender: int) -> int:
        """Direct: the member who is not the sender; self: the owner; group: 0."""
        return self.high if sender == self.low else self.low


class Resolver:
    """Caches and the reads behind them."""

    def __init__(
        self,
        accounts: AccountStore,
        conversations: ConversationStore,
        new_ids: NewIds,
        *,
        makes_unknown: bool,
        makes_contacts: bool,
    ) -> None:
        """``makes_unknown``: messages to unknown users make their accounts. ``makes_contacts``:
        a new direct conversation makes the two contacts (CHATMESH_REACH=tenant)."""
        self._accounts = accounts
        self._conversations = conversations
        self._new_ids = new_ids
        self._makes_unknown = makes_unknown
        self._makes_contacts = makes_contacts
        self._by_user: BoundedCache[tuple[str, str], AccountRow] = BoundedCache(CACHED_ACCOUNTS)
        self._users: BoundedCache[int, str] = BoundedCache(CACHED_ACCOUNTS)
        self._pairs: BoundedCache[Pair, int] = BoundedCache(CACHED_CONVERSATIONS)
        self._places: BoundedCache[int, Place] = BoundedCache(CACHED_CONVERSATIONS)
        self._generation = 0
        self.on_new_contacts: Callable[[Sequence[int]], None] | None = None
        """Told of accounts whose contacts may have grown by a new direct conversation."""
        self.on_refused: Callable[[str, str], None] = lambda _tenant, _reason: None
        """Told (tenant, reason) of each valid token whose user may not come in."""

    def forget(self) -> None:
        """The database may be another one: what was read of it is read again."""
        self._generation += 1
        for cache in (self._by_user, self._users, self._pairs, self._places):
            cache.clear()

    # -- single questions ------------------------------------------------------------------------

    async def own_account(self, tenant: str, user: str, issued_at_ms: int = 0) -> AccountRow:
        """The account of a verified token's user, made at first sight.

        Args:
            tenant: the token's tenant.
            user: its user.
            issued_at_ms: its `iat`; 0 = not said.

        Raises:
            Fault: TOKEN_REVOKED: the user was erased since.
        """
        row = self._by_user.get((tenant, user))
        if row is None:
            await self._load_accounts(tenant, {user}, make=False)
            if (tenant, user) not in self._by_user:
                if issued_at_ms < await self._accounts.erased_at_ms(tenant, user):
                    raise errors.TOKEN_REVOKED()  # and no account is made for it
                await self._load_accounts(tenant, {user}, make=True)
            row = self._by_user[tenant, user]
        return row

    async def admit(self, identity: Identity) -> AccountRow:
        """The account of a verified token's user, if it may come in; mostly without a read.

        Raises:
            Fault: USER_DISABLED, TOKEN_REVOKED.
        """
        try:
            row = await self.own_account(identity.tenant, identity.user_id, identity.issued_at_ms)
            fault = refusal(row.disabled, row.not_before_ms, identity.issued_at_ms)
            if fault is not None:
                raise fault
        except Fault as refused:
            self.on_refused(identity.tenant, refused.reason)
            raise
        return row

    def restate(self, tenant: str, user: str, row: AccountRow) -> None:
        """An account's row changed: what is kept of it is replaced."""
        if (tenant, user) in self._by_user:
            self._by_user.put((tenant, user), row)

    def forget_account(self, tenant: str, account: int) -> None:
        """An account was erased: its name means somebody else from now on."""
        user = self._users.pop(account, None)
        row = self._by_user.get((tenant, user)) if user is not None else None
        if user is not None and row is not None and row.id == account:
            del self._by_user[tenant, user]

    async def find_accounts(self, tenant: str, users: Iterable[str]) -> dict[str, AccountRow]:
        """Accounts of users that exist; never makes one."""
        wanted = {user for user in users if is_clean_text(user, MAX_USER_ID_CHARACTERS)}
        await self._load_accounts(
            tenant, {user for user in wanted if (tenant, user) not in self._by_user}, make=False
        )
        found = {user: self._by_user.get((tenant, user)) for user in wanted}
        return {user: row for user, row in found.items() if row is not None}

    def place(self, conversation: int) -> Place | None:
        """What is known of a conversation without asking."""
        return self._places.get(conversation)

    def user(self, account: int) -> str:
        """The user id of an account that a batch resolved; empty when it is not known."""
        return self._users.get(account, "")

    async def users_of(self, accounts: Iterable[int]) -> dict[int, str]:
        """User ids by account."""
        await self._load_users({account for account in accounts if account not in self._users})
        return {account: self._users[account] for account in accounts if account in self._users}

    async def places_of(self, tenant_id: int, conversations: Iterable[int]) -> dict[int, Place]:
        """Conversations of a tenant by id; unknown ones are absent."""
        await self._load_places(
            tenant_id, {number for number in conversations if number not in self._places}
        )
        return {number: self._places[number] for number in conversations if number in self._places}

    # -- a whole batch ---------------------------------------------------------------------------

    async def resolve(self, batch: Sequence[PendingSend]) -> list[tuple[PendingSend, Refusal]]:
        """Set each send's conversation, weight and mentions; the ones that go nowhere, and why."""
        refused = self._resolve_known(batch)
        while refused is None:
            generation = self._generation
            await self._load(batch)
            if generation == self._generation:  # else: forgotten while it was read
                refused = self._resolve_known(batch, final=True) or []
        return refused

    def _resolve_known(
        self, batch: Sequence[PendingSend], *, final: bool = False
    ) -> list[tuple[PendingSend, Refusal]] | None:
        """From the caches alone; None when something is missing (and may be read)."""
        refused: list[tuple[PendingSend, Refusal]] = []
        for send in batch:
            message = send.message
            number = message.conversation_id or self._direct(send)
            place = self._places.get(number)
            if place is not None and (not message.mentions or self._mentions(send)):
                send.conversation = place.id
                send.weight = place.weight
            elif not final:
                return None
            elif place is not None:
                refused.append((send, errors.INVALID_FIELD))  # somebody mentioned is unknown
            elif message.conversation_id:
                refused.append((send, errors.NOT_A_MEMBER))
            else:
                refused.append((send, errors.NOT_REACHABLE))
        return refused

    def _direct(self, send: PendingSend) -> int:
        """The direct (or self) conversation that a message to a user goes to; 0 = not known."""
        peer = self._by_user.get((send.sender.tenant, send.message.to_user))
        if peer is None:
            return 0
        return self._pairs.get(_pair(send.sender.account, peer.id), 0)

    def _mentions(self, send: PendingSend) -> bool:
        accounts = []
        for user in send.message.mentions:
            row = self._by_user.get((send.sender.tenant, user))
            if row is None:
                return False
            accounts.append(row.id)
        send.mentions = tuple(accounts)
        return True

    async def _load(self, batch: Sequence[PendingSend]) -> None:
        users: dict[tuple[str, bool], set[str]] = {}
        for send in batch:
            tenant, message = send.sender.tenant, send.message
            if message.to_user and (tenant, message.to_user) not in self._by_user:
                users.setdefault((tenant, self._makes_unknown), set()).add(message.to_user)
            for user in message.mentions:
                if (tenant, user) not in self._by_user:
                    users.setdefault((tenant, False), set()).add(user)
        for (tenant, make), wanted in users.items():
            clean = {user for user in wanted if is_clean_text(user, MAX_USER_ID_CHARACTERS)}
            await self._load_accounts(tenant, clean, make=make)
        await self._load_pairs(batch)
        numbers: dict[int, set[int]] = {}
        for send in batch:
            number = send.message.conversation_id
            if number and number not in self._places:
                numbers.setdefault(send.sender.tenant_id, set()).add(number)
        for tenant_id, wanted_numbers in numbers.items():
            await self._load_places(tenant_id, wanted_numbers)

    async def _load_accounts(self, tenant: str, users: set[str], *, make: bool) -> None:
        if not users:
            return
        rows = await self._accounts.resolve_accounts(tenant, sorted(users), make, self._new_ids)
        for user, row in rows.items():
            self._by_user.put((tenant, user), row)
            self._users.put(row.id, user)

    async def _load_pairs(self, batch: Sequence[PendingSend]) -> None:
        missing: dict[int, set[Pair]] = {}
        for send in batch:
            if not send.message.to_user:
                continue
            peer = self._by_user.get((send.sender.tenant, send.message.to_user))
            if peer is None:
                continue
            pair = _pair(send.sender.account, peer.id)
            if pair not in self._pairs or self._pairs[pair] not in self._places:
                missing.setdefault(send.sender.tenant_id, set()).add(pair)
        for tenant_id, pairs in missing.items():
            found = await self._conversations.direct_conversations(
                tenant_id, sorted(pairs), self._new_ids, make_contacts=self._makes_contacts
            )
            for pair, number in found.items():
                self._pairs.put(pair, number)
                self._places.put(number, _direct_place(number, pair))
            if self.on_new_contacts is not None and self._makes_contacts:
                self.on_new_contacts(sorted({account for pair in found for account in pair}))

    async def _load_places(self, tenant_id: int, numbers: set[int]) -> None:
        if not numbers:
            return
        rows = await self._conversations.conversations(tenant_id, sorted(numbers))
        for number, row in rows.items():
            weight = max(row.member_count, 1)
            self._places.put(
                number, Place(number, row.kind, row.direct_low, row.direct_high, weight)
            )
        # The names that events of these conversations carry.
        await self._load_users(
            {
                account
                for row in rows.values()
                if row.kind != GROUP
                for account in (row.direct_low, row.direct_high)
                if account not in self._users
            }
        )

    async def _load_users(self, accounts: set[int]) -> None:
        if not accounts:
            return
        for account, user in (await self._accounts.users_of(sorted(accounts))).items():
            self._users.put(account, user)


def _pair(one: int, other: int) -> Pair:
    return (one, other) if one <= other else (other, one)


def _direct_place(number: int, pair: Pair) -> Place:
    low, high = pair
    if low == high:
        return Place(number, SELF, low, high, 1)
    return Place(number, DIRECT, low, high, 2)
