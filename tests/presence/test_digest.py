"""The digest's vectors, which other implementations must meet, and what a digest must do."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from chatmesh.digest import mix64, mix_session, mix_version, settle_digest

NUMBER = st.integers(0, (1 << 64) - 1)


def test_vectors() -> None:
    assert mix64(0, 0) == 0x48218226FF3CD4BF
    assert mix64(1, 0) == 0xDCE423FC82C0D5B8
    assert mix64(0, 1) == 0xEA8568D2E45FD6CB
    assert mix64((1 << 63) - 1, 1 << 53) == 0xB350CC82DF2CD641
    assert mix_version(5, 6, 7) == 0x37F84575EA61526B
    assert mix_session(1, 0) == mix64(1, 0)
    vector = "9e1420b86cf3d8503ccb7715fca9786f"
    assert settle_digest(7, [(2, 5, True), (1, 9, False)]).hex() == vector


@given(NUMBER, NUMBER, st.integers(0, 127))
def test_every_bit_matters(first: int, second: int, bit: int) -> None:
    if bit < 64:
        other = mix64(first ^ (1 << bit), second)
    else:
        other = mix64(first, second ^ (1 << (bit - 64)))
    assert other != mix64(first, second)
    assert 0 <= other < 1 << 64


@given(st.lists(st.tuples(NUMBER, NUMBER), unique=True, max_size=20), st.randoms())
def test_order_does_not_matter_and_taking_away_undoes(
    pairs: list[tuple[int, int]], random: object
) -> None:
    digest = 0
    for pair in pairs:
        digest ^= mix64(*pair)
    for pair in reversed(pairs):
        digest ^= mix64(*pair)
    assert digest == 0


HINTS = st.lists(st.tuples(NUMBER, NUMBER, st.booleans()), max_size=8)


@given(NUMBER, NUMBER, HINTS, HINTS, st.randoms(use_true_random=False))
def test_a_settle_digest_names_one_set_of_one_batch(
    batch_id: int,
    other_id: int,
    hints: list[tuple[int, int, bool]],
    others: list[tuple[int, int, bool]],
    random: Random,
) -> None:
    shuffled = random.sample(hints, len(hints))
    same = (batch_id, sorted(hints)) == (other_id, sorted(others))
    assert settle_digest(batch_id, shuffled) == settle_digest(batch_id, hints)
    assert (settle_digest(other_id, others) == settle_digest(batch_id, hints)) is same
    assert settle_digest(batch_id, [*hints, (1, 1, True)]) != settle_digest(batch_id, hints)
