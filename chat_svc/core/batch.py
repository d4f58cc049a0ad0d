"""What joins the next commit: order per sender, fair shares, equal keys, splits.

- Each sender (a session, or one unary call) is a queue; messages of one sender go in order.
- A batch takes turns over the senders, ``SHARE`` messages a turn: one busy sender fills what the
  others leave, and no more.
- Messages of a ``stop_on_error`` frame go one per batch: the next may only go when the one before
  was accepted.
- The same key twice in one batch is committed once; the second is answered like the first.

Pure; knows neither accounts' names nor stores.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from chat_svc.core.content import Checked

SHARE: Final = 32
MAX_BATCH_MESSAGES: Final = 512
"""Cost per message hardly falls beyond (10 against 9 µs), while everyone in the batch waits."""
MAX_BATCH_BYTES: Final = 4 << 20

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Chain:
    """The messages of one ``stop_on_error`` frame."""

    refused: bool = False


@dataclass(slots=True, eq=False)
class Sender:
    """Who sends: its queue, and what all its messages share."""

    tenant: str
    tenant_id: int
    account: int
    user: str
    body_suffix: bytes
    """Event fields 19 and 20 (sender kind, sent by) as bytes."""
    flags: int
    """Added to every message's flags."""
    answer: Callable[["PendingSend", bytes, bool], None]
    """Takes the serialised SendResult of one message, and whether it was accepted."""
    slim_session: object = None
    """The session that gets its own messages back without content; None = it wants them whole."""
    has_left: Callable[[], bool] = lambda: False
    """Whether the session that sends is over; never for senders without one."""
    pending: deque["PendingSend"] = field(default_factory=deque)
    is_ready: bool = False
    """Stands in the ring of senders."""
    awaits: Chain | None = None
    """A chain whose current message is in a batch: nothing else goes meanwhile."""


@dataclass(slots=True, eq=False)
class PendingSend:
    """One message on its way to the commit. Filled in along the way; see the committer."""

    sender: Sender
    message: Checked
    chain: Chain | None
    trace: bytes = b""
    """Context of the last hop; empty when not sampled."""
    conversation: int = 0
    weight: int = 2
    """Timeline rows that it makes."""
    content_hash: int = 0
    mentions: tuple[int, ...] = ()
    message_id: int = 0
    body: bytes = b""
    """The event's body as it is stored: content, sender kind, trace context."""


class SendQueue:
    """Messages that wait for the commit."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._ready: deque[Sender] = deque()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self.messages = 0
        self.bytes = 0

    def __len__(self) -> int:
        return self.messages

    @property
    def is_full(self) -> bool:
        """Whether the node holds as much as it may: new messages are refused, to be sent again."""
        return self.messages >= self._max_messages or self.bytes >= self._max_bytes

    @property
    def has_ready(self) -> bool:
        """Whether `take` would give something."""
        return bool(self._ready)

    def offer(self, sends: Sequence[PendingSend]) -> None:
        """Add messages of one sender, in order."""
        sender = sends[0].sender
        sender.pending.extend(sends)
        self.messages += len(sends)
        for send in sends:
            self.bytes += len(send.message.body)
        self._make_ready(sender)

    def take(
        self, max_messages: int = MAX_BATCH_MESSAGES, max_bytes: int = MAX_BATCH_BYTES
    ) -> list[PendingSend]:
        """The next batch; senders in turn, messages of one sender in order."""
        batch: list[PendingSend] = []
        size = 0
        while self._ready and len(batch) < max_messages and size < max_bytes:
            sender = self._ready.popleft()
            share = min(SHARE, max_messages - len(batch))
            while sender.pending and share and size < max_bytes:
                send = sender.pending.popleft()
                batch.append(send)
                size += len(send.message.body)
                share -= 1
                if send.chain is not None:
                    sender.awaits = send.chain
                    break
            if sender.pending and sender.awaits is None:
                self._ready.append(sender)
            else:
                sender.is_ready = False
        self.messages -= len(batch)
        self.bytes -= size
        return batch

    def settled(self, send: PendingSend, accepted: bool) -> list[PendingSend]:
        """A chained message has its outcome; the ones that are refused because of it."""
        sender, chain = send.sender, send.chain
        if chain is None or sender.awaits is not chain:
            return []
        sender.awaits = None
        refused: list[PendingSend] = []
        if not accepted:
            chain.refused = True
            while sender.pending and sender.pending[0].chain is chain:
                refused.append(sender.pending.popleft())
            self.messages -= len(refused)
            self.bytes -= sum(len(other.message.body) for other in refused)
        self._make_ready(sender)
        return refused

    def _make_ready(self, sender: Sender) -> None:
        if sender.pending and not sender.is_ready and sender.awaits is None:
            sender.is_ready = True
            self._ready.append(sender)


def settle_equal_keys(
    sends: Sequence[PendingSend],
) -> tuple[list[PendingSend], dict[int, list[PendingSend]]]:
    """The sends to commit, and per index of them the later ones with the same sender and key."""
    if len(sends) == 1:
        return list(sends), {}
    first: dict[tuple[int, bytes], int] = {}
    unique: list[PendingSend] = []
    followers: dict[int, list[PendingSend]] = {}
    for send in sends:
        index = first.setdefault((send.sender.account, send.message.key), len(unique))
        if index == len(unique):
            unique.append(send)
        else:
            followers.setdefault(index, []).append(send)
    return unique, followers


def split_by_weight(sends: Sequence[PendingSend], max_weight: int) -> list[list[PendingSend]]:
    """Runs of at most ``max_weight`` timeline rows, in order; one that is heavier goes alone."""
    runs: list[list[PendingSend]] = []
    room = 0
    for send in sends:
        if not runs or send.weight > room:
            runs.append([])
            room = max_weight
        runs[-1].append(send)
        room -= send.weight
    return runs


def halves(items: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Both halves, for finding the one that poisons a batch. Needs two or more items."""
    middle = len(items) // 2
    return items[:middle], items[middle:]
