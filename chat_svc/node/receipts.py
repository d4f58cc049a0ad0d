"""Read and delivered marks: gathered, written together, told to who may see them.

Marks are monotonic, so gathering keeps the highest per member; 200 ms at most pass until they are
written. Delivered comes from acks through the session's window, after a resume from the timeline's
range before the cursor, read from ``mark_read``. Who is told: ``node.receipt_telling``.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from chat_svc.core.extras import MAX_BIGINT
from chat_svc.node.counters import NodeCounters
from chat_svc.node.receipt_telling import ReceiptTelling
from chat_svc.node.resolver import BoundedCache
from chat_svc.node.signals import Signals
from chat_svc.store.receipts import ChangedMark, Mark
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger

GATHER_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 1.0
MAX_RESUMED_AT_ONCE: Final = 32
"""Accounts whose entries are looked at in one statement; a storm of reconnects takes turns."""
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

    async def resumed_marks(self, cursors: Sequence[tuple[int, int]]) -> list[Mark]:
        """Delivered marks that follow from (account, timeline_seq) of cursors."""
        ...


class Members(Protocol):
    """What is used of the store's conversations."""

    async def members_of(self, tenant_id: int, ids: Sequence[int]) -> dict[int, list[int]]:
        """Members per conversation."""
        ...


class TypingAudience(Protocol):
    """Who may see somebody type."""

    async def sees_typing(self, members: Mapping[int, Collection[int]]) -> dict[int, set[int]]:
        """Per account that types: those of `members` who may see it."""
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
        telling: ReceiptTelling,
        audience: TypingAudience,
        signals: Signals,
        clock: Clock,
        counters: NodeCounters,
    ) -> None:
        self._marks = marks
        self._members = members
        self._telling = telling
        self._audience = audience
        self._signals = signals
        self._clock = clock
        self._counters = counters
        self._waiting: dict[tuple[int, int], tuple[int, int]] = {}
        self._resumed: dict[int, int] = {}  # account → highest cursor
        self._typed: dict[tuple[int, int], _Typed] = {}
        self._known: BoundedCache[int, tuple[float, list[int]]] = BoundedCache(10_000)
        self._wake = asyncio.Event()

    def resumed(self, account: int, cursor_seq: int) -> None:
        """A session of the account began at a cursor: what lies before it was delivered."""
        if cursor_seq and len(self._resumed) < MAX_WAITING_MARKS:
            self._resumed[account] = max(cursor_seq, self._resumed.get(account, 0))
            self._wake.set()

    def delivered(self, account: int, upto: Mapping[int, int]) -> None:
        """A device of the account has stored these conversations up to a conversation_seq."""
        for conversation, seq in upto.items():
            read, before = self._waiting.get((conversation, account), (0, 0))
            if seq > before:
                self._put(conversation, account, (read, seq))

    def read(self, account: int, conversation: int, message_no: int) -> None:
        """The account has read a conversation up to a visible message."""
        if conversation > MAX_BIGINT or message_no > MAX_BIGINT:
            return
        before, seq = self._waiting.get((conversation, account), (0, 0))
        if message_no > before:
            self._put(conversation, account, (message_no, seq))

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
                await self._look_back()
                await self._write()
            except Exception as error:  # noqa: BLE001 - the store is away; marks wait
                if _budget.take():
                    _log.warning("marks not written", error=type(error).__name__)
                self._wake.set()
                await self._clock.sleep(RETRY_SECONDS)
            finally:
                self._signals.flush()

    def _put(self, conversation: int, account: int, mark: tuple[int, int]) -> None:
        key = (conversation, account)
        if key not in self._waiting and len(self._waiting) >= MAX_WAITING_MARKS:
            return  # the store is away for long: the next ack or read mark says it again
        self._waiting[key] = mark
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
            await self._telling.tell(changed)

    async def _look_back(self) -> None:
        """Marks of sessions that were resumed; from here on they wait like any other."""
        while self._resumed:
            part = list(self._resumed.items())[:MAX_RESUMED_AT_ONCE]
            for mark in await self._marks.resumed_marks(part):
                self.delivered(mark.account, {mark.conversation: mark.delivered_conversation_seq})
            for account, seq in part:
                if self._resumed.get(account) == seq:
                    del self._resumed[account]

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
