"""The table of bad input itself: its words are the contract's."""

from tests.bad_input.table import problems


def test_statuses_and_reasons_are_those_of_the_contract() -> None:
    assert problems() == []
