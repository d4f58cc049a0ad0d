"""What a unary change of own state makes the mesh say: receipts to others, counts to oneself.

The same signals as from a session (`node.receipts`), which gathers; here the state is written
already, because the caller's answer holds it.
"""

from __future__ import annotations

from collections.abc import Sequence

from chat_svc.node.receipt_telling import ReceiptTelling
from chat_svc.node.signals import Signals
from chat_svc.store.receipts import ChangedMark


class Telling:
    """Signals after a unary call."""

    def __init__(self, receipts: ReceiptTelling, signals: Signals) -> None:
        self._receipts = receipts
        self._signals = signals

    async def marks(self, changed: Sequence[ChangedMark]) -> None:
        """Marks rose: who may sees it, and the readers' devices get their new counts."""
        await self._receipts.tell(changed)
        self._signals.flush()

    async def account(self, account: int) -> None:
        """An account's own state changed: its devices ask for what they lack."""
        await self._receipts.counts([account])
        self._signals.flush()
