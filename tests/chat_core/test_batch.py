"""Order per sender, fair shares, chains, equal keys, splits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_svc.core.batch import (
    SHARE,
    Chain,
    PendingSend,
    SendQueue,
    halves,
    settle_equal_keys,
    split_by_weight,
)
from tests.chat_core.builders import pending, sender


def queue() -> SendQueue:
    return SendQueue(10_000, 1 << 20)


def numbers(batch: list[PendingSend]) -> list[tuple[str, int]]:
    return [(send.sender.user, send.message.key[-1]) for send in batch]


def test_senders_take_turns() -> None:
    sends, busy, quiet = queue(), sender("busy", 1), sender("quiet", 2)
    sends.offer([pending(busy, n) for n in range(100)])
    sends.offer([pending(quiet, 0)])
    batch = sends.take(max_messages=50)
    users = [send.sender.user for send in batch]
    assert users.index("quiet") == SHARE
    assert len(batch) == 50
    assert len(sends) == 51
    rest = sends.take()
    assert [n for _, n in numbers(batch + rest) if _ == "busy"] == list(range(100))
    assert (len(sends), sends.bytes, sends.take()) == (0, 0, [])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40)), max_size=20), st.integers(1, 64))
def test_each_sender_keeps_its_order(offers: list[tuple[int, int]], size: int) -> None:
    sends = queue()
    senders = [sender(str(n), n) for n in range(5)]
    expected: dict[str, list[PendingSend]] = {owner.user: [] for owner in senders}
    for who, count in offers:
        made = [pending(senders[who], n) for n in range(count)]
        expected[senders[who].user] += made
        sends.offer(made)
    got: dict[str, list[PendingSend]] = {owner.user: [] for owner in senders}
    while batch := sends.take(max_messages=size):
        assert len(batch) <= size
        for send in batch:
            got[send.sender.user].append(send)
    assert got == expected
    assert (sends.messages, sends.bytes, sends.has_ready) == (0, 0, False)


def test_a_chain_goes_one_by_one_and_later_frames_wait_for_it() -> None:
    sends, owner, chain = queue(), sender(), Chain()
    chained = [pending(owner, n) for n in range(3)]
    for send in chained:
        send.chain = chain
    later = pending(owner, 9)
    sends.offer(chained)
    sends.offer([later])
    assert sends.take() == chained[:1]
    assert sends.take() == []
    assert sends.settled(chained[0], accepted=True) == []
    assert sends.take() == chained[1:2]
    assert sends.settled(chained[1], accepted=False) == chained[2:]
    assert sends.take() == [later]
    assert (sends.messages, sends.bytes) == (0, 0)


def test_a_batch_is_bounded_in_bytes() -> None:
    sends, owner = queue(), sender()
    sends.offer([pending(owner, n, size=100) for n in range(10)])
    assert len(sends.take(max_bytes=250)) == 3
    assert len(sends.take(max_bytes=1)) == 1


@pytest.mark.parametrize(
    ("count", "size", "full"), [(2, 10, False), (3, 10, True), (1, 99, False), (1, 100, True)]
)
def test_a_full_queue_says_so(count: int, size: int, full: bool) -> None:
    sends, owner = SendQueue(3, 100), sender()
    sends.offer([pending(owner, n, size=size) for n in range(count)])
    assert sends.is_full is full


def test_equal_keys_of_one_account_are_committed_once() -> None:
    phone, laptop, other = sender("alice", 1), sender("alice", 1), sender("bob", 2)
    batch = [pending(phone, 1), pending(laptop, 1), pending(other, 1), pending(phone, 2),
             pending(phone, 1)]  # fmt: skip
    unique, followers = settle_equal_keys(batch)
    assert unique == [batch[0], batch[2], batch[3]]
    assert followers == {0: [batch[1], batch[4]]}
    assert settle_equal_keys(batch[:1]) == (batch[:1], {})


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 60))
def test_runs_are_bounded_by_weight(weights: list[int], limit: int) -> None:
    owner = sender()
    batch = []
    for number, weight in enumerate(weights):
        send = pending(owner, number)
        send.weight = weight
        batch.append(send)
    runs = split_by_weight(batch, limit)
    assert [send for run in runs for send in run] == batch
    for run in runs:
        assert len(run) == 1 or sum(send.weight for send in run) <= limit
        assert run


@given(st.lists(st.integers(), min_size=2))
def test_halves(items: list[int]) -> None:
    left, right = halves(items)
    assert [*left, *right] == items
    assert left
    assert right
