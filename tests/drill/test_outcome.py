"""A drill's verdict: what is a fault, and to which service a gap belongs."""

import pytest

from chatmesh.cli.drill import report
from chatmesh.cli.drill.outcome import Outcome, Plan, Replacement, Traffic

SECOND = 1_000_000_000
NAMES = {"lost", "duplicated", "errors", "longest_gap_ms", "seconds", "sent"}


def outcome(traffic: Traffic, kind: str = "rolling", seconds: float = 10) -> Outcome:
    replaced = [
        Replacement("sync", "sync_svc", 1 * SECOND, 2 * SECOND, 3 * SECOND),
        Replacement("chat-1", "chat_svc", 4 * SECOND, 6 * SECOND, 7 * SECOND),
        Replacement("chat-2", "chat_svc", 7 * SECOND, 8 * SECOND, 9 * SECOND),
    ]
    plan = Plan("kill" if kind == "kill" else "rolling", pairs=2, rate=10)
    return Outcome(plan, traffic, replaced, seconds)


def test_a_good_drill_passes_and_has_the_names_that_were_asked_for() -> None:
    good = outcome(Traffic(sent=100))
    assert good.passed
    assert good.to_json().keys() >= NAMES
    assert good.longest_gap_ms() == {"sync_svc": 0.0, "chat_svc": 0.0}
    assert "3 servers drained" in report.text(good)


@pytest.mark.parametrize(
    ("traffic", "fault"),
    [
        (Traffic(sent=100, lost=1), "1 lost"),
        (Traffic(sent=100, duplicated=2), "2 duplicated"),
        (Traffic(sent=100, out_of_order=3), "3 out of order"),
        (Traffic(sent=100, errors=["send: Unavailable"]), "1 errors shown by the SDK"),
        (Traffic(sent=94), "only 94 of 100"),
    ],
)
def test_each_count_is_a_fault(traffic: Traffic, fault: str) -> None:
    (found,) = outcome(traffic).faults()
    assert found.startswith(fault)


def test_a_gap_belongs_to_the_replacements_it_touches_and_the_longest_counts() -> None:
    gaps = [
        (int(2.5 * SECOND), int(2.9 * SECOND)),
        (5 * SECOND, 7 * SECOND),
        (9 * SECOND, 99 * SECOND),
    ]
    found = outcome(Traffic(sent=100, gaps=gaps))
    assert found.longest_gap_ms() == {"sync_svc": 400.0, "chat_svc": 2000.0}
    (fault,) = found.faults()
    assert "2,000 ms while chat_svc" in fault
    killed = outcome(Traffic(sent=100, gaps=gaps), kind="kill")
    assert killed.passed, "the lease and five seconds are allowed after kill -9"


def test_nothing_replaced_proves_nothing() -> None:
    assert Outcome(Plan("kill", 1, 1), Traffic(), [], 0).faults() == ["nothing was replaced"]
