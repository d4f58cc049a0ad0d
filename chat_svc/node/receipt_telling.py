"""Who is told of marks that rose, and what.

| conversation | delivered | read |
| --- | --- | --- |
| direct | the other member | the other member |
| group of at most 20 | the senders of what arrived | all members |
| larger group | the senders, as a count of members | the senders, as a count of members |

Nobody is told of somebody who hides receipts, nor while hiding their own, nor across a block. A
raised read mark also changes the reader's own counts, which all their devices are told.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from chat_svc.node.resolver import Resolver
from chat_svc.node.signals import Signals
from chat_svc.store.conversations import DIRECT
from chat_svc.store.devices import Head
from chat_svc.store.receipts import ChangedMark, Tally, Viewers
from chatmesh.v1.session_pb2 import Receipt

MAX_TOLD_MEMBERS: Final = 20
"""Members of a group whose receipts are told one by one."""


class MarkReads(Protocol):
    """What is used of the store's receipts."""

    async def receipt_viewers(self, marks: Sequence[ChangedMark]) -> Viewers:
        """Who may see the receipts of each mark's account."""
        ...

    async def senders(self, marks: Sequence[ChangedMark]) -> Viewers:
        """Whose messages the marks newly passed."""
        ...

    async def tallies(self, ranges: Sequence[tuple[int, int, int]]) -> list[Tally]:
        """How many members have the newest message of each sender."""
        ...


class Totals(Protocol):
    """What is used of the store's conversations."""

    async def unread_totals_of(self, accounts: Sequence[int]) -> dict[int, tuple[int, int]]:
        """(unread, mentions) of each account."""
        ...


class Heads(Protocol):
    """What is used of the store's devices."""

    async def heads(self, accounts: Sequence[int]) -> dict[int, Head]:
        """Heads by account."""
        ...


class ReceiptTelling:
    """See the module's text. Collects signals; its callers flush them."""

    def __init__(
        self, marks: MarkReads, totals: Totals, heads: Heads, resolver: Resolver, signals: Signals
    ) -> None:
        self._marks = marks
        self._totals = totals
        self._heads = heads
        self._resolver = resolver
        self._signals = signals

    async def tell(self, changed: Sequence[ChangedMark]) -> None:
        """Marks rose."""
        single = [mark for mark in changed if _is_small(mark)]
        large = [mark for mark in changed if not _is_small(mark)]
        if single:
            await self._one_by_one(single)
        if large:
            await self._counted(large)
        await self.counts(sorted({mark.account for mark in changed if mark.read_changed}))

    async def counts(self, accounts: Sequence[int]) -> None:
        """Own state of accounts changed: their devices are told version and unread."""
        if not accounts:
            return
        heads = await self._heads.heads(accounts)
        totals = await self._totals.unread_totals_of(accounts)
        for account, (unread, mentions) in totals.items():
            if (head := heads.get(account)) is not None:
                self._signals.counts(account, head.account_version, unread, mentions)

    async def _one_by_one(self, marks: Sequence[ChangedMark]) -> None:
        users = await self._resolver.users_of({mark.account for mark in marks})
        viewers = await self._marks.receipt_viewers(marks)
        groups = [mark for mark in marks if mark.conversation_kind != DIRECT]
        senders = await self._marks.senders(groups) if groups else {}
        for mark in marks:
            place = (mark.conversation, mark.account)
            is_direct = mark.conversation_kind == DIRECT
            for viewer in viewers.get(place, ()):
                sees_delivered = is_direct or viewer in senders.get(place, ())
                if not sees_delivered and not mark.read_changed:
                    continue
                receipt = Receipt(
                    conversation_id=mark.conversation,
                    user_id=users.get(mark.account, ""),
                    delivered_conversation_seq=(
                        mark.delivered_conversation_seq if sees_delivered else 0
                    ),
                    read_message_no=mark.read_message_no,
                )
                self._signals.receipt(viewer, receipt)

    async def _counted(self, marks: Sequence[ChangedMark]) -> None:
        ranges: dict[int, tuple[int, int]] = {}
        for mark in marks:
            above, up_to = ranges.get(mark.conversation, (mark.above_seq, mark.up_to_seq))
            ranges[mark.conversation] = (min(above, mark.above_seq), max(up_to, mark.up_to_seq))
        wanted = [(conversation, *ends) for conversation, ends in ranges.items()]
        for tally in await self._marks.tallies(wanted):
            for receipt in (
                Receipt(
                    delivered_conversation_seq=tally.conversation_seq,
                    member_count=tally.delivered_members,
                ),
                Receipt(read_message_no=tally.message_no, member_count=tally.read_members),
            ):
                if receipt.member_count:
                    receipt.conversation_id = tally.conversation
                    self._signals.receipt(tally.sender, receipt)


def _is_small(mark: ChangedMark) -> bool:
    return mark.conversation_kind == DIRECT or mark.member_count <= MAX_TOLD_MEMBERS
