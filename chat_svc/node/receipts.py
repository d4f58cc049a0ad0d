"""Read and delivered marks: gathered, written together, told to who may see them.

Marks are monotonic, so gathering keeps the highest per member; 200 ms at most pass until they are
written. Delivered comes from acks through the session's window, read from ``mark_read``.

Who is told: in a direct conversation the other member; in a group all members while there are at
most 20, above that nobody yet. A raised read mark also changes the reader's own counts, which all
their devices are told.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from chat_svc.core.extras import MAX_BIGINT
from chat_svc.node.counters import NodeCounters
from chat_svc.node.resolver import BoundedCache, Resolver
from chat_svc.node.signals import Signals
from chat_svc.store.conversations import DIRECT
from chat_svc.store.devices import Head
from chat_svc.store.receipts import ChangedMark, Mark
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.v1.session_pb2 import Receipt

GATHER_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 1.0
MAX_TOLD_MEMBERS: Final = 20
MAX_TYPING_MEMBERS: Final = 50
MAX_WAITING_MARKS: Final = 100_000
MEMBERS_SECONDS: Final = 5.0
"""Members of a group are read again after this; who came or left meanwhile sees typing late."""

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class Marks(Protocol):
    """What is used of the store's receipts."""

    async def write_marks(self, marks: Sequence[Mark]) -> list[ChangedMark]:
        """Raise marks of members; those that rose."""
        ...


class Members(Protocol):
    """What is used of the store's conversations."""

    async def members_of(self, tenant_id: int, ids: Sequence[int]) -> dict[int, list[int]]:
        """Members per conversation."""
        ...

    async def unread_totals(self, account: int) -> tuple[int, int]:
        """(unread, mentions)."""
        ...


class TypingAudience(Protocol):
    """Who may see somebody type."""

    async def sees_typing(self, members: Mapping[int, Collection[int]]) -> dict[int, set[int]]:
        """Per account that types: those of `members` who may see it."""
        ...


class Heads(Protocol):
    """What is used of the store's devices."""

    async def heads(self, accounts: Sequence[int]) -> dict[int, Head]:
        """Heads by account."""
        ...


@dataclass(slots=True)
class _Typed:
    tenant_id: int
    conversation: int
    account: int
    user: str
    active: bool


class Receipts:
    """See the module's text."""

    def __init__(
        self,
        marks: Marks,
        members: Members,
        heads: Heads,
        audience: TypingAudience,
        resolver: Resolver,
        signals: Signals,
        clock: Clock,
        counters: NodeCounters,
    ) -> None:
        self._marks = marks
        self._members = members
        self._heads = heads
        self._audience = audience
        self._resolver = resolver
        self._signals = signals
        self._clock = clock
        self._counters = counters
        self._waiting: dict[tuple[int, int], tuple[int, int]] = {}
        self._tenants: BoundedCache[int, int] = BoundedCache(MAX_WAITING_MARKS)
        self._typed: dict[tuple[int, int], _Typed] = {}
        self._known: BoundedCache[int, tuple[float, list[int]]] = BoundedCache(10_000)
        self._wake = asyncio.Event()

    def delivered(self, tenant_id: int, account: int, upto: Mapping[int, int]) -> None:
        """A device of the account has stored these conversations up to a conversation_seq."""
        for conversation, seq in upto.items():
            read, before = self._waiting.get((conversation, account), (0, 0))
            if seq > before:
                self._put(tenant_id, conversation, account, (read, seq))

    def read(self, tenant_id: int, account: int, conversation: int, message_no: int) -> None:
        """The account has read a conversation up to a visible message."""
        if conversation > MAX_BIGINT or message_no > MAX_BIGINT:
            return
        before, seq = self._waiting.get((conversation, account), (0, 0))
        if message_no > before:
            self._put(tenant_id, conversation, account, (message_no, seq))

    def typing(
        self, tenant_id: int, account: int, user: str, conversation: int, active: bool
    ) -> None:
        """The user types; told to the other members if the user is one."""
        if conversation <= MAX_BIGINT:
            self._typed[conversation, account] = _Typed(
                tenant_id, conversation, account, user, active
            )
            self._wake.set()

    async def run(self) -> None:
        """Write and tell what gathers; in the background."""
        while True:
            await self._wake.wait()
            await self._clock.sleep(GATHER_SECONDS)
            self._wake.clear()
            try:
                await self._tell_typing()
                await self._write()
            except Exception as error:  # noqa: BLE001 - the store is away; marks wait
                if _budget.take():
                    _log.warning("marks not written", error=type(error).__name__)
                self._wake.set()
                await self._clock.sleep(RETRY_SECONDS)
            finally:
                self._signals.flush()

    def _put(self, tenant_id: int, conversation: int, account: int, mark: tuple[int, int]) -> None:
        key = (conversation, account)
        if key not in self._waiting and len(self._waiting) >= MAX_WAITING_MARKS:
            return  # the store is away for long: the next ack or read mark says it again
        self._waiting[key] = mark
        self._tenants.put(conversation, tenant_id)
        self._wake.set()

    async def _write(self) -> None:
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        marks = [
            Mark(conversation, account, read, delivered)
            for (conversation, account), (read, delivered) in waiting.items()
        ]
        try:
            changed = await self._marks.write_marks(marks)
        except BaseException:
            for key, (read, delivered) in waiting.items():
                newer = self._waiting.get(key, (0, 0))
                self._waiting[key] = (max(read, newer[0]), max(delivered, newer[1]))
            raise
        self._counters.mark_writes += 1
        if changed:
            await self._tell(changed)

    async def _tell(self, changed: Sequence[ChangedMark]) -> None:
        users = await self._resolver.users_of({mark.account for mark in changed})
        told = await self._told(changed)
        for mark in changed:
            receipt = Receipt(
                conversation_id=mark.conversation,
                user_id=users.get(mark.account, ""),
                delivered_conversation_seq=mark.delivered_conversation_seq,
                read_message_no=mark.read_message_no,
            )
            for account in told.get(mark.conversation, ()):
                if account != mark.account:
                    self._signals.receipt(account, receipt)
        await self._tell_counts(sorted({mark.account for mark in changed if mark.read_changed}))

    async def _tell_counts(self, readers: Sequence[int]) -> None:
        if not readers:
            return
        heads = await self._heads.heads(readers)
        for reader in readers:
            if (head := heads.get(reader)) is not None:
                unread, mentions = await self._members.unread_totals(reader)
                self._signals.counts(reader, head.account_version, unread, mentions)

    async def _told(self, changed: Sequence[ChangedMark]) -> dict[int, list[int]]:
        """Accounts to tell per conversation."""
        told: dict[int, list[int]] = {}
        by_tenant: dict[int, set[int]] = {}
        for mark in changed:
            place = self._resolver.place(mark.conversation)
            if place is not None and place.kind == DIRECT:
                told[mark.conversation] = [place.low, place.high]
            elif mark.member_count <= MAX_TOLD_MEMBERS:
                tenant_id = self._tenants.get(mark.conversation, 0)
                by_tenant.setdefault(tenant_id, set()).add(mark.conversation)
        for tenant_id, conversations in by_tenant.items():
            told |= await self._members_of(tenant_id, conversations)
        return told

    async def _tell_typing(self) -> None:
        typed, self._typed = self._typed, {}
        by_tenant: dict[int, set[int]] = {}
        for one in typed.values():
            by_tenant.setdefault(one.tenant_id, set()).add(one.conversation)
        members: dict[int, list[int]] = {}
        for tenant_id, conversations in by_tenant.items():
            members |= await self._members_of(tenant_id, conversations)
        told = {
            key: others
            for key, one in typed.items()
            if one.account in (others := members.get(one.conversation, []))
            and len(others) <= MAX_TYPING_MEMBERS
        }
        seers: dict[int, set[int]] = {}
        for (_, account), others in told.items():
            seers.setdefault(account, set()).update(others)
        if seers:
            seers = await self._audience.sees_typing(seers)
        for key, others in told.items():
            one = typed[key]
            for account in others:
                if account in seers[one.account]:
                    self._signals.typing(account, one.conversation, one.user, one.active)

    async def _members_of(self, tenant_id: int, conversations: set[int]) -> dict[int, list[int]]:
        now = self._clock.monotonic()
        known = {
            number: self._known[number][1]
            for number in conversations
            if number in self._known and self._known[number][0] > now
        }
        missing = sorted(conversations - known.keys())
        if missing:
            for number, accounts in (await self._members.members_of(tenant_id, missing)).items():
                known[number] = accounts
                self._known.put(number, (now + MEMBERS_SECONDS, accounts))
        return known
