"""A true history passes; each way to break it is named."""

from __future__ import annotations

import dataclasses

import pytest

from chatmesh.ids import DEFAULT_LAYOUT, PROJECT_EPOCH_MS
from chatmesh.testing.presence_checks import (
    Claim,
    GivenId,
    Stay,
    converged,
    ids_are_distinct,
    ids_rise_per_worker,
    ids_tell_their_time,
    online_was_true,
)

LEASE_MS = 10_000
STAYS = [Stay("alice", 1_000, 5_000), Stay("alice", 30_000), Stay("carol", 0, 2_000)]
CLAIMS = [
    Claim("bob", "alice", True, 1_100),
    Claim("bob", "alice", True, 14_000),  # the lease of her node is not over
    Claim("bob", "alice", False, 15_000),
    Claim("bob", "alice", True, 30_050),
    Claim("bob", "carol", False, 12_000),
]
NOW_MS = PROJECT_EPOCH_MS + 1_000_000


def test_a_true_history_passes() -> None:
    assert list(online_was_true(STAYS, CLAIMS, lease_ms=LEASE_MS)) == []
    assert list(converged(STAYS, CLAIMS)) == []


@pytest.mark.parametrize(
    "claim",
    [
        Claim("bob", "alice", True, 999),
        Claim("bob", "alice", True, 15_001),
        Claim("bob", "nobody", True, 1_100),
    ],
    ids=["before", "after the lease", "never there"],
)
def test_online_without_a_session_is_named(claim: Claim) -> None:
    (wrong,) = online_was_true(STAYS, [*CLAIMS, claim], lease_ms=LEASE_MS)
    assert wrong.invariant == "I9"
    assert claim.user in wrong.text
    assert not list(
        online_was_true(STAYS, [dataclasses.replace(claim, online=False)], lease_ms=LEASE_MS)
    )


def test_a_slow_reader_has_slack() -> None:
    late = Claim("bob", "alice", True, 15_500)
    assert list(online_was_true(STAYS, [late], lease_ms=LEASE_MS))
    assert not list(online_was_true(STAYS, [late], lease_ms=LEASE_MS, slack_ms=500))


def test_what_is_still_shown_wrongly_is_named() -> None:
    (stale,) = converged(STAYS, CLAIMS[:3])
    assert "still shown alice offline, who is online" in stale.text
    (ghost,) = converged(STAYS, [*CLAIMS, Claim("bob", "carol", True, 13_000)])
    assert "still shown carol online, who is offline" in ghost.text


def test_who_is_hidden_is_to_be_shown_offline() -> None:
    assert list(converged(STAYS, CLAIMS, hidden=[("bob", "alice")]))
    hidden = [*CLAIMS, Claim("bob", "alice", False, 31_000)]
    assert list(converged(STAYS, hidden, hidden=[("bob", "alice")])) == []
    assert list(converged(STAYS, hidden))


def given(ms: int, worker: int, sequence: int, *, at_ms: int = NOW_MS) -> GivenId:
    return GivenId(DEFAULT_LAYOUT.encode(NOW_MS + ms, worker, sequence), at_ms)


def test_ids() -> None:
    ids = [given(0, 1, 0), given(0, 1, 1), given(4_999, 2, 0), given(-4_999, 3, 0)]
    assert list(ids_are_distinct(ids)) == list(ids_tell_their_time(ids)) == []
    (twice,) = ids_are_distinct([*ids, given(0, 1, 1)])
    assert "given twice" in twice.text
    for off in (5_001, -5_001, 3_600_000):
        (lying,) = ids_tell_their_time([given(off, 1, 0)])
        assert f"{off} ms off" in lying.text


def test_ids_rise() -> None:
    rising = [given(0, 1, 0), given(0, 2, 5), given(0, 1, 1), given(0, 2, 6)]
    assert list(ids_rise_per_worker({"c": [one.message_id for one in rising]})) == []
    falling = [*rising, given(0, 1, 1)]
    (wrong,) = ids_rise_per_worker({"c": [one.message_id for one in falling]})
    assert (wrong.invariant, "after" in wrong.text) == ("I10", True)
