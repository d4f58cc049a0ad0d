"""The digest's vectors, which other implementations must meet, and what a digest must do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chatmesh.digest import mix64, mix_session, mix_version

NUMBER = st.integers(0, (1 << 64) - 1)


def test_vectors() -> None:
    assert mix64(0, 0) == 0x48218226FF3CD4BF
    assert mix64(1, 0) == 0xDCE423FC82C0D5B8
    assert mix64(0, 1) == 0xEA8568D2E45FD6CB
    assert mix64((1 << 63) - 1, 1 << 53) == 0xB350CC82DF2CD641
    assert mix_version(5, 6, 7) == 0x37F84575EA61526B
    assert mix_session(1, 0) == mix64(1, 0)


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
