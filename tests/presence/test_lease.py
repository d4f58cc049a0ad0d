"""Leases, warm-up and re-attachment: rules over time, with clocks that stall and step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_svc.lease import (
    BEAT_SECONDS,
    POLL_SECONDS,
    BeatJudge,
    Holding,
    LeaseTimes,
    Store,
    Warmth,
)

TIMES = LeaseTimes(10)


@given(st.floats(8.5, 120))
def test_the_times_are_in_the_order_that_the_rules_need(seconds: float) -> None:
    times = LeaseTimes(seconds)
    assert times.granted_ms < times.key_ms < times.lease_ms
    # A lease is renewed every beat, so at any moment it has this much left; the mark of being
    # alive, renewed every poll, must have less: then it ends first when both stop.
    least_left_ms = times.key_ms - BEAT_SECONDS * 1000
    assert times.alive_ms < least_left_ms
    assert times.alive_ms > 3 * POLL_SECONDS * 1000, "a missed poll or two is no interruption"


def test_leases_shorter_than_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 8\.5 s"):
        LeaseTimes(8)


def test_a_first_reading_of_an_old_store_is_trusted() -> None:
    warmth = Warmth(10)
    assert not warmth.observe(Store(5, alive=True, warming=False), 0)
    assert not warmth.unknown(0)
    assert warmth.generation == 5


def test_a_new_generation_voids_and_doubts_for_one_lease() -> None:
    warmth = Warmth(10)
    warmth.observe(Store(5, alive=True, warming=False), 0)
    assert warmth.observe(Store(6, alive=True, warming=False), 100)
    assert warmth.unknown(109.9)
    assert not warmth.unknown(110)
    assert not warmth.observe(Store(6, alive=True, warming=False), 101)


def test_an_emptied_store_is_doubted_before_anybody_marks_it() -> None:
    warmth = Warmth(10)
    warmth.observe(Store(5, alive=True, warming=False), 0)
    assert not warmth.observe(Store(None, alive=False, warming=False), 50)
    assert warmth.unknown(50)
    assert warmth.observe(Store(9, alive=True, warming=True), 51)
    warmth.observe(Store(9, alive=True, warming=False), 60)
    assert warmth.unknown(60.9)
    assert not warmth.unknown(61)


@pytest.mark.parametrize(
    "store", [Store(5, alive=False, warming=False), Store(5, alive=True, warming=True)]
)
def test_an_interruption_is_doubted_while_it_is_marked(store: Store) -> None:
    warmth = Warmth(10)
    warmth.observe(Store(5, alive=True, warming=False), 0)
    warmth.observe(store, 1)
    assert warmth.unknown(1_000)
    warmth.observe(Store(5, alive=True, warming=False), 1_001)
    assert not warmth.unknown(1_001)


@given(st.floats(0.01, 120), st.floats(0, 5.9), st.floats(0, 0.99))
def test_no_interruption_makes_an_offline_that_is_not_doubted(
    outage: float, since_beat: float, since_poll: float
) -> None:
    """Redis (or all of presence) stops for `outage` seconds; then leases and marks are as the
    clock left them. Whoever lost a lease by it must be answered with `unknown`."""
    lease_left = TIMES.key_ms / 1000 - min(since_beat, BEAT_SECONDS) - outage
    alive_left = TIMES.alive_ms / 1000 - since_poll - outage
    store = Store(5, alive=alive_left > 0, warming=False)
    warmth = Warmth(10)
    warmth.observe(store, 0)
    if lease_left <= 0:
        assert warmth.unknown(0)


def judged(*beats: tuple[bool, int, int]) -> list[bool]:
    judge = BeatJudge()
    return [
        judge.reattach(
            lease_was_live=live, claimed=Holding(claimed, claimed), stored=Holding(stored, stored)
        )
        for live, claimed, stored in beats
    ]


def test_a_lost_lease_asks_at_once() -> None:
    assert judged((False, 3, 0)) == [True]
    assert judged((False, 0, 0)) == [False], "a new node without sessions has nothing to say"


def test_one_difference_may_be_under_way() -> None:
    assert judged((True, 3, 2), (True, 3, 3), (True, 4, 3), (True, 4, 4)) == [False] * 4


def test_two_in_a_row_ask() -> None:
    assert judged((True, 3, 2), (True, 3, 2), (True, 3, 2), (True, 3, 2)) == [
        False, True, False, True,
    ]  # fmt: skip


def test_equal_counts_with_other_sessions_differ() -> None:
    judge = BeatJudge()
    assert judge.reattach(lease_was_live=False, claimed=Holding(1, 5), stored=Holding(1, 6))
