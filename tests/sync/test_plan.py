"""The rules of delivery, by tables and by random histories. No server."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatmesh.mesh.v1.hint_pb2 import Hint, HintBatch
from sync_svc.plan import (
    NO_ANSWER_DELAY_MS,
    OFFLINE,
    Batch,
    Ledger,
    NodeDelivery,
    PendingHint,
    PushOrder,
    Routes,
    after_no_answer,
    after_no_answers,
    after_no_session,
    plan,
    routes_by_account,
)

BOB, CAROL = 2, 3
ON_7 = Routes({7: ("phone",)})
ON_7_AND_8 = Routes({7: ("phone", "tablet"), 8: ("laptop",)})


def pending(account: int = BOB, seq: int = 1, *, pushable: bool = False) -> PendingHint:
    batch = Batch(1, 9, "source", 10, 0.0, legs=1)
    hint = Hint(account_id=account, timeline_seq=seq, pushable=pushable, message_id=seq)
    return PendingHint(hint, batch)


@pytest.mark.parametrize(
    ("routes", "unknown", "pushable", "nodes", "pushed", "excepted", "waits", "settled"),
    [
        (OFFLINE, False, False, [], 0, None, 0, 1),
        (OFFLINE, False, True, [], 1, set(), 0, 0),
        (OFFLINE, True, False, [], 0, None, 1, 0),
        (OFFLINE, True, True, [], 0, None, 1, 0),
        (ON_7, False, False, [7], 0, None, 0, 1),
        (ON_7, False, True, [7], 1, {"phone"}, 0, 0),
        (ON_7, True, True, [7], 0, None, 1, 0),
        (ON_7_AND_8, False, False, [7, 8], 0, None, 0, 1),
        (ON_7_AND_8, False, True, [7, 8], 1, {"phone", "tablet", "laptop"}, 0, 0),
    ],
)
def test_what_becomes_of_a_hint(
    routes: Routes,
    unknown: bool,
    pushable: bool,
    nodes: list[int],
    pushed: int,
    excepted: set[str] | None,
    waits: int,
    settled: int,
) -> None:
    one = pending(pushable=pushable)
    made, done = plan([one], {BOB: routes}, unknown=unknown)
    assert sorted(made.deliveries) == nodes
    assert len(made.pushes) == pushed
    if excepted is not None:
        assert set(made.pushes[0].except_device_ids) == excepted
        assert made.pushes[0].delay_ms == 0
    assert len(made.waits) == waits
    assert len(done) == settled
    # one leg for each delivery, and the hint's own: with a push, a wait, or to be settled
    assert one.batch.legs == len(nodes) + 1


def test_nodes_that_have_it_are_not_told_again_after_the_wait() -> None:
    one = pending(pushable=True)
    plan([one], {BOB: ON_7}, unknown=True)
    made, _ = plan([one], {BOB: ON_7_AND_8}, unknown=False)
    assert list(made.deliveries) == [8]
    assert made.pushes[0].covers == [one]


def test_positions_of_an_account_are_one_push_of_the_newest() -> None:
    hints = [pending(seq=seq, pushable=True) for seq in (3, 9, 4)]
    hints.append(pending(CAROL, 1, pushable=True))
    made, _ = plan(hints, {}, unknown=False)
    assert [(order.account_id, order.timeline_seq) for order in made.pushes] == [
        (BOB, 9),
        (CAROL, 1),
    ]
    assert made.pushes[0].covers == hints[:3]
    assert made.pushes[0].message_id == 9


def test_no_session_is_looked_up_once_more_then_pushed() -> None:
    one = pending(pushable=True)
    made, _ = plan([one], {BOB: ON_7}, unknown=False)
    assert after_no_session(made.deliveries[7][0]) is one
    made, _ = plan([one], {BOB: ON_7}, unknown=False, again=True)
    order = after_no_session(made.deliveries[7][0])
    assert isinstance(order, PushOrder)
    assert (order.device_ids, order.delay_ms) == (("phone",), NO_ANSWER_DELAY_MS)


def test_two_nodes_without_a_session_are_one_look_up() -> None:
    one = pending()
    made, _ = plan([one], {BOB: ON_7_AND_8}, unknown=False)
    assert after_no_session(made.deliveries[7][0]) is one
    assert after_no_session(made.deliveries[8][0]) is None
    made, _ = plan([one], {BOB: ON_7_AND_8}, unknown=False, again=True)
    assert sorted(made.deliveries) == [7, 8]


def test_no_answer_is_pushed_to_the_devices_of_that_node() -> None:
    one, mute = pending(pushable=True), pending()
    made, _ = plan([one], {BOB: ON_7_AND_8}, unknown=False)
    order = after_no_answer(made.deliveries[7][0])
    assert order is not None
    assert order.device_ids == ("phone", "tablet")
    assert order.delay_ms == NO_ANSWER_DELAY_MS
    made, _ = plan([mute], {BOB: ON_7}, unknown=False)
    assert after_no_answer(made.deliveries[7][0]) is None


def test_what_a_node_leaves_open_is_one_order_per_account() -> None:
    hints = [pending(seq=seq, pushable=True) for seq in (3, 9)] + [pending(CAROL)]
    made, _ = plan(hints, {BOB: ON_7, CAROL: ON_7}, unknown=False)
    orders, settled = after_no_answers(made.deliveries[7])
    assert [(order.account_id, order.timeline_seq) for order in orders] == [(BOB, 9)]
    assert settled == [hints[2].batch]


def test_routes_are_gathered_by_node() -> None:
    found = routes_by_account([(BOB, [(7, "phone"), (8, "laptop"), (7, "tablet")]), (CAROL, [])])
    assert found == {BOB: ON_7_AND_8, CAROL: OFFLINE}
    assert set(found[BOB].devices) == {"phone", "tablet", "laptop"}


def open_batch(ledger: Ledger, batch_id: int, *, size_bytes: int = 10, since: float = 0) -> Batch:
    message = HintBatch(batch_id=batch_id, node_id=9, hints=[Hint(account_id=BOB, timeline_seq=1)])
    [one] = ledger.open(message, size_bytes=size_bytes, since=since)
    return one.batch


def test_a_batch_is_done_once() -> None:
    ledger = Ledger(1_000)
    batch = open_batch(ledger, 1)
    batch.legs += 1
    assert not ledger.settle(batch)
    assert ledger.settle(batch)
    assert not ledger.settle(batch)
    assert (len(ledger), ledger.open_bytes) == (0, 0)


def test_a_forgotten_batch_is_never_done() -> None:
    ledger = Ledger(1_000)
    old, new = open_batch(ledger, 1, since=5), open_batch(ledger, 2, since=9)
    assert ledger.oldest_since() == 5
    assert ledger.forget_older(6) == 1
    assert old.forgotten
    assert not ledger.settle(old)
    assert ledger.settle(new)
    assert ledger.oldest_since() is None


def test_what_lay_in_the_queue_for_long_has_its_whole_time_here() -> None:
    ledger = Ledger(1_000)
    message = HintBatch(batch_id=1, node_id=9, hints=[Hint(account_id=BOB, timeline_seq=1)])
    [one] = ledger.open(message, size_bytes=10, since=-500, taken=100)
    assert ledger.oldest_since() == -500, "its lag counts from the queue"
    assert ledger.forget_older(100) == 0
    assert ledger.settle(one.batch)


def test_past_its_bound_the_oldest_are_forgotten() -> None:
    ledger = Ledger(25)
    batches = [open_batch(ledger, number) for number in range(4)]
    assert [batch.forgotten for batch in batches] == [True, True, False, False]
    big = open_batch(ledger, 9, size_bytes=1_000)
    assert not big.forgotten  # one that is larger than the bound is handled all the same
    assert len(ledger) == 1


def test_a_batch_without_hints_has_nothing_to_settle() -> None:
    ledger = Ledger(25)
    assert ledger.open(HintBatch(batch_id=3), size_bytes=10, since=0) == []
    assert (len(ledger), ledger.open_bytes) == (0, 0)


@dataclass
class World:
    """Sync's rules in a world of accounts that move, nodes that deny or keep silent, and a
    presence that sometimes knows nothing."""

    chance: random.Random
    ledger: Ledger = field(default_factory=lambda: Ledger(1 << 30))
    truth: dict[int, dict[int, tuple[str, ...]]] = field(default_factory=dict)
    unknown: bool = False
    in_flight: list[NodeDelivery] = field(default_factory=list)
    orders: list[PushOrder] = field(default_factory=list)
    waiting: list[PendingHint] = field(default_factory=list)
    again: list[PendingHint] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    taken: dict[int, set[int]] = field(default_factory=dict)
    """Batch → nodes that took its hint."""
    pushed: dict[int, list[PushOrder]] = field(default_factory=dict)
    opened: dict[int, PendingHint] = field(default_factory=dict)

    def settle(self, batches: list[Batch]) -> None:
        for batch in batches:
            if self.ledger.settle(batch):
                self.done.append(batch.batch_id)

    def plan(self, hints: list[PendingHint], *, again: bool = False) -> None:
        routes = {account: Routes(dict(nodes)) for account, nodes in self.truth.items()}
        made, settled = plan(hints, routes, unknown=self.unknown, again=again)
        assert not (self.unknown and made.pushes)
        for deliveries in made.deliveries.values():
            self.in_flight.extend(deliveries)
        self.orders.extend(made.pushes)
        self.waiting.extend(made.waits)
        self.settle(settled)

    def arrive(self, batch_id: int) -> None:
        hint = Hint(
            account_id=self.chance.randrange(1, 4),
            timeline_seq=batch_id,
            pushable=self.chance.random() < 0.5,
        )
        message = HintBatch(batch_id=batch_id, node_id=99, hints=[hint])
        opened = self.ledger.open(message, size_bytes=1, since=batch_id)
        self.opened[batch_id] = opened[0]
        self.plan(opened)

    def move(self) -> None:
        account = self.chance.randrange(1, 4)
        self.truth[account] = {
            node: (f"device {node}",) for node in range(10, 13) if self.chance.random() < 0.5
        }

    def answer(self) -> None:
        if not self.in_flight:
            return
        delivery = self.in_flight.pop(self.chance.randrange(len(self.in_flight)))
        hint, batch = delivery.pending.hint, delivery.pending.batch
        match self.chance.choice(("answer", "answer", "answer", "silence")):
            case "silence":
                orders, settled = after_no_answers([delivery])
                self.orders.extend(orders)
                self.settle(settled)
            case _ if delivery.node_id in self.truth.get(hint.account_id, {}):
                self.taken.setdefault(batch.batch_id, set()).add(delivery.node_id)
                self.settle([batch])
            case _:
                what = after_no_session(delivery)
                if isinstance(what, PendingHint):
                    self.again.append(what)
                elif what is None:
                    self.settle([batch])
                else:
                    self.orders.append(what)

    def push(self) -> None:
        if self.orders:
            order = self.orders.pop(self.chance.randrange(len(self.orders)))
            for one in order.covers:
                self.pushed.setdefault(one.batch.batch_id, []).append(order)
                self.settle([one.batch])

    def look_again(self) -> None:
        again, self.again = self.again, []
        self.plan(again, again=True)
        if not self.unknown or self.chance.random() < 0.3:
            waiting, self.waiting = self.waiting, []
            self.plan(waiting)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_every_batch_is_done_once_and_nobody_is_forgotten(seed: int) -> None:
    world = World(random.Random(seed))
    batches = 40
    for batch_id in range(1, batches + 1):
        world.arrive(batch_id)
        for _ in range(world.chance.randrange(6)):
            world.chance.choice(
                (world.move, world.answer, world.answer, world.push, world.look_again)
            )()
        if world.chance.random() < 0.1:
            world.unknown = not world.unknown
        assert len(set(world.done)) == len(world.done)
    world.unknown = False
    while world.in_flight or world.orders or world.again or world.waiting:
        world.answer()
        world.push()
        world.look_again()
    # each exactly once, and nothing is left behind
    assert sorted(world.done) == list(range(1, batches + 1))
    assert len(world.ledger) == 0
    for batch_id, one in world.opened.items():
        orders = world.pushed.get(batch_id, [])
        if not one.hint.pushable:
            assert not orders
            continue
        # P7: every device was told by its node or is covered by a committed push
        for node in range(10, 13):
            device = f"device {node}"
            assert node in world.taken.get(batch_id, ()) or any(
                device in order.device_ids
                or (not order.device_ids and device not in order.except_device_ids)
                for order in orders
            )
        assert max(order.timeline_seq for order in orders) >= batch_id
