"""The ledger finds what is lost, doubled and out of order; the histogram keeps its precision."""

import random

from hypothesis import given
from hypothesis import strategies as st

from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.ledger import Ledger


def take(numbers: list[int]) -> Ledger:
    ledger = Ledger()
    for number in numbers:
        ledger.receive(number)
    return ledger


def test_all_in_order_is_clean() -> None:
    ledger = take(list(range(100)))
    assert (ledger.lost(100), ledger.duplicated, ledger.out_of_order) == (0, 0, 0)


def test_one_missing_is_lost_and_out_of_order() -> None:
    ledger = take([0, 1, 3, 4])
    assert (ledger.lost(5), ledger.duplicated, ledger.out_of_order) == (1, 0, 1)


def test_last_ones_missing_are_lost() -> None:
    assert take([0, 1]).lost(4) == 2


def test_one_twice_is_doubled() -> None:
    ledger = take([0, 1, 1, 2, 0])
    assert (ledger.lost(3), ledger.duplicated, ledger.out_of_order) == (0, 2, 0)


def test_two_swapped_are_out_of_order_once() -> None:
    ledger = take([0, 2, 1, 3])
    assert (ledger.lost(4), ledger.duplicated, ledger.out_of_order) == (0, 0, 1)


@given(st.permutations(list(range(12))))
def test_any_order_loses_nothing_and_only_the_right_one_is_clean(numbers: list[int]) -> None:
    ledger = take(numbers)
    assert ledger.lost(len(numbers)) == 0
    assert ledger.duplicated == 0
    assert (ledger.out_of_order == 0) == (numbers == sorted(numbers))


@given(st.lists(st.integers(200, 10**12), min_size=1, max_size=200), st.floats(0.01, 1))
def test_quantiles_are_at_most_a_hundredth_above_the_truth(values: list[int], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    rank = max(1, -(-int(share * len(values) * 1_000_000) // 1_000_000))
    truth = sorted(values)[min(len(values), rank) - 1]
    found = histogram.quantile_ns(share)
    assert found >= truth * 0.99
    assert histogram.quantile_ns(1) == max(values)


def test_merged_and_saved_histograms_are_the_same() -> None:
    one, two, whole = Histogram(), Histogram(), Histogram()
    for _ in range(1_000):
        value = int(random.expovariate(1 / 3e6))
        random.choice((one, two)).record(value)
        whole.record(value)
    one.merge(Histogram.from_json(two.to_json()))
    assert one.to_json() == whole.to_json()
    assert one.summary_ms() == whole.summary_ms()


def test_histogram_is_drawn_from_first_to_last() -> None:
    histogram = Histogram()
    for value in (1_000_000, 1_000_001, 9_000_000):
        histogram.record(value)
    lines = histogram.lines()
    assert "66.7%" in lines[0]
    assert "33.3%" in lines[-1]
    assert Histogram().lines() == []
