"""What becomes of hints: which node is told, who is pushed, who waits, and which batches are done.

Role: `plan` turns hints and the routes of their accounts into deliveries, pushes and waits;
`after_…` say what follows an answer or its absence; `Ledger` knows which batches are still open.
Rules: pure. A hint is settled only when every node that holds a session of its account has taken
it and, if it may notify, a push_job for all other devices is committed. A batch is done when all
its hints are settled. Nothing is pushed while presence does not know. To forget a batch is always
safe (its outbox row sends it again), to call it done too early never is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from chatmesh.digest import settle_digest
from chatmesh.mesh.v1.hint_pb2 import Hint, HintBatch

NO_ANSWER_DELAY_MS: Final = 5_000
"""Where presence says online and the node does not confirm it, a push waits for an ack."""


@dataclass(frozen=True, slots=True)
class Routes:
    """Where an account's sessions are. Empty = offline, as far as presence knows."""

    nodes: Mapping[int, tuple[str, ...]]
    """Node → the devices that have a session there."""

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices that have a session."""
        return tuple(device for devices in self.nodes.values() for device in devices)


OFFLINE: Final = Routes({})


@dataclass(slots=True, eq=False)
class Batch:
    """A commit batch under way."""

    batch_id: int
    """outbox.batch_id; 0 = signals only, nobody is told that it is done."""
    node_id: int
    node_target: str
    size_bytes: int
    since: float
    """When it was handed to the queue, on the monotonic clock, in seconds: its lag."""
    taken: float = 0.0
    """When this process took it on, on the same clock: what lay in the queue for long has its whole
    time here to be settled."""
    digest: bytes = b""
    """settle_digest of its hints, said with ``done``: the source node compares it with what it
    committed, for what was read from Redis may be anybody's."""
    legs: int = 0
    """What is still to be settled: hints to plan, deliveries and pushes without an answer."""
    forgotten: bool = False


@dataclass(slots=True, eq=False)
class PendingHint:
    """A hint that is not settled."""

    hint: Hint
    batch: Batch
    sent: set[int] = field(default_factory=set)
    """Nodes that have it or are about to get it."""
    looking: bool = False
    """Its account is to be looked up again."""


@dataclass(slots=True, eq=False)
class NodeDelivery:
    """A hint for the sessions of one node."""

    pending: PendingHint
    node_id: int
    devices: tuple[str, ...]
    """The devices that presence saw there."""
    again: bool
    """Planned after another node had said that it has no session."""
    sent_ns: int = 0
    """Unix time of sending, for the trace of sampled hints; 0 otherwise."""


@dataclass(slots=True, eq=False)
class PushOrder:
    """A position that devices of one account are to be told of, unless they ack it first."""

    account_id: int
    timeline_seq: int
    message_id: int
    trace_context: bytes
    device_ids: tuple[str, ...] = ()
    """Only these; empty = all with a token but those of except_device_ids."""
    except_device_ids: tuple[str, ...] = ()
    delay_ms: int = 0
    covers: list[PendingHint] = field(default_factory=list)
    """The hints that are settled (one leg each) when the job is committed."""

    def add(self, pending: PendingHint) -> None:
        """Cover one more hint of the account: a job tells of the newest position alone."""
        self.covers.append(pending)
        hint = pending.hint
        if hint.timeline_seq > self.timeline_seq:
            self.timeline_seq = hint.timeline_seq
            self.message_id = hint.message_id
            self.trace_context = hint.trace_context


@dataclass(slots=True)
class Plan:
    """What to do now."""

    deliveries: dict[int, list[NodeDelivery]] = field(default_factory=dict)
    """Node → what it gets, in the order of the hints."""
    pushes: list[PushOrder] = field(default_factory=list)
    waits: list[PendingHint] = field(default_factory=list)
    """Look up again later: presence does not know."""


def plan(
    hints: Iterable[PendingHint],
    routes: Mapping[int, Routes],
    *,
    unknown: bool,
    again: bool = False,
) -> tuple[Plan, list[Batch]]:
    """Decide on hints whose accounts were looked up.

    Args:
        hints: each is one leg of its batch, which goes on in what is returned.
        routes: by account; an account that is missing is offline.
        unknown: presence has just started empty: routes it names are true, their absence says
            nothing, so all hints also wait.
        again: these hints were looked up once more because a node had no session.

    Returns:
        The plan, and the batches of hints with nothing more to do: one leg of each is to be
        settled.
    """
    made = Plan()
    settled: list[Batch] = []
    orders: dict[int, PushOrder] = {}
    for pending in hints:
        batch, hint = pending.batch, pending.hint
        pending.looking = False
        found = routes.get(hint.account_id, OFFLINE)
        for node_id, devices in found.nodes.items():
            if node_id not in pending.sent:
                pending.sent.add(node_id)
                batch.legs += 1
                made.deliveries.setdefault(node_id, []).append(
                    NodeDelivery(pending, node_id, devices, again)
                )
        if unknown:
            made.waits.append(pending)
        elif hint.pushable:
            order = orders.get(hint.account_id)
            if order is None:
                order = orders[hint.account_id] = _order(pending, except_device_ids=found.devices)
            else:
                order.add(pending)
        else:
            settled.append(batch)
    made.pushes = list(orders.values())
    return made, settled


def after_no_session(delivery: NodeDelivery) -> PushOrder | PendingHint | None:
    """A node had no session of the account.

    Returns:
        The hint, when its account is to be looked up again; its leg goes on. A push order, when
        that was done already: the order carries the leg. None: the leg is to be settled, because
        the look-up is under way for another node, or nobody can be pushed.
    """
    pending = delivery.pending
    pending.sent.discard(delivery.node_id)
    if not delivery.again:
        if pending.looking:
            return None
        pending.looking = True
        return pending
    return after_no_answer(delivery)


def after_no_answer(delivery: NodeDelivery) -> PushOrder | None:
    """A node did not answer in time, or denied a session twice.

    Its devices are pushed, unless they ack within the delay. None: there is nothing to push; the
    node compares its sessions with their heads when the stream ends. The leg is to be settled.
    """
    if not delivery.pending.hint.pushable:
        return None
    return _order(delivery.pending, device_ids=delivery.devices, delay_ms=NO_ANSWER_DELAY_MS)


def after_no_answers(
    deliveries: Iterable[NodeDelivery],
) -> tuple[list[PushOrder], list[Batch]]:
    """As `after_no_answer` for all that a node left open: one order per account and devices.

    Returns the orders, and the batches of the legs that are to be settled.
    """
    orders: dict[tuple[int, tuple[str, ...]], PushOrder] = {}
    settled: list[Batch] = []
    for delivery in deliveries:
        order = after_no_answer(delivery)
        if order is None:
            settled.append(delivery.pending.batch)
            continue
        known = orders.setdefault((order.account_id, order.device_ids), order)
        if known is not order:
            known.add(delivery.pending)
    return list(orders.values()), settled


def _order(
    pending: PendingHint,
    *,
    device_ids: tuple[str, ...] = (),
    except_device_ids: tuple[str, ...] = (),
    delay_ms: int = 0,
) -> PushOrder:
    hint = pending.hint
    return PushOrder(
        hint.account_id,
        hint.timeline_seq,
        hint.message_id,
        hint.trace_context,
        device_ids,
        except_device_ids,
        delay_ms,
        [pending],
    )


class Ledger:
    """Open batches, oldest first, within a bound of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._open: dict[Batch, None] = {}
        self.open_bytes = 0
        self.forgotten = 0
        """Batches forgotten so far, because they stood in the way."""

    def __len__(self) -> int:
        return len(self._open)

    def oldest_since(self) -> float | None:
        """When the oldest open batch was handed to the queue (monotonic seconds)."""
        return min((batch.since for batch in self._open), default=None)

    def open(
        self, message: HintBatch, *, size_bytes: int, since: float, taken: float | None = None
    ) -> list[PendingHint]:
        """Take a batch on at `taken` (as `since` when it is not given): its hints, one leg each.

        A batch without hints has nothing to settle and is not kept. When the bound is passed, the
        oldest others are forgotten: they wait for a peer that is away, and are sent again.
        """
        if not message.hints:
            return []
        batch = Batch(message.batch_id, message.node_id, message.node_target, size_bytes, since)
        batch.digest = settle_digest(
            message.batch_id,
            [(hint.account_id, hint.timeline_seq, hint.pushable) for hint in message.hints],
        )
        batch.taken = since if taken is None else taken
        batch.legs = len(message.hints)
        self._open[batch] = None
        self.open_bytes += size_bytes
        while self.open_bytes > self._max_bytes and len(self._open) > 1:
            self.forget(next(iter(self._open)))
        return [PendingHint(hint, batch) for hint in message.hints]

    def settle(self, batch: Batch) -> bool:
        """Settle one leg; whether the batch is done with that, which is said once."""
        batch.legs -= 1
        if batch.legs > 0 or batch not in self._open:
            return False
        self._remove(batch)
        return True

    def forget(self, batch: Batch) -> None:
        """Give the batch up: it is never called done, and its outbox row sends it again."""
        if batch in self._open:
            batch.forgotten = True
            self.forgotten += 1
            self._remove(batch)

    def forget_older(self, before: float) -> int:
        """Give up batches taken on before `before` (monotonic seconds); how many."""
        old = [batch for batch in self._open if batch.taken < before]
        for batch in old:
            self.forget(batch)
        return len(old)

    def _remove(self, batch: Batch) -> None:
        del self._open[batch]
        self.open_bytes -= batch.size_bytes


def routes_by_account(
    accounts: Iterable[tuple[int, Sequence[tuple[int, str]]]],
) -> dict[int, Routes]:
    """Routes of accounts from (account, [(node, device), …])."""
    found: dict[int, Routes] = {}
    for account_id, routes in accounts:
        nodes: dict[int, tuple[str, ...]] = {}
        for node_id, device_id in routes:
            nodes[node_id] = (*nodes.get(node_id, ()), device_id)
        found[account_id] = Routes(nodes)
    return found
