"""I9 over histories: each way to break it is named, and what is allowed is not blamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from chatmesh.testing import Invariant, check
from chatmesh.testing._presence_story import LEASE_MS, SLACK_MS
from chatmesh.testing.history import Kind, Operation
from tests.testing_kit.histories import good

History = list[Operation]


def at(ms: int, kind: Kind, user: str, device: str = "phone", **values: str) -> Operation:
    made = Operation(kind=kind, at_ns=ms * 1_000_000, user=user, device=device)
    return replace(made, **values)  # type: ignore[arg-type]


def sees(ms: int, watcher: str, user: str, content: str) -> Operation:
    return at(ms, "shown", watcher, sender=user, content=content)


LATEST_MS = 5_000 + LEASE_MS + SLACK_MS


def watched() -> History:
    """Carol comes, goes and comes again; alice's phone sees it, bob's phone may not."""
    return [
        *good(),
        at(1_000, "came", "carol"),
        sees(1_100, "alice", "carol", "online"),
        at(5_000, "went", "carol"),
        sees(LATEST_MS, "alice", "carol", "online"),  # a lease, and some slack
        at(50_000, "opened", "alice"),
        at(60_000, "came", "carol"),
        sees(61_000, "alice", "carol", "online"),
        sees(61_000, "bob", "carol", "offline"),
        replace(at(0, "unseen", "bob"), users=("carol",)),
        sees(61_000, "alice", "dave", "online"),  # of whom nothing was recorded
    ]


def test_a_good_history_is_good() -> None:
    report = check(watched())
    assert report.ok, report.violations


def before_she_came(history: History) -> None:
    history.append(sees(900, "bob", "carol", "online"))
    history.append(sees(61_001, "bob", "carol", "offline"))


def after_the_lease(history: History) -> None:
    history.insert(-1, sees(LATEST_MS + 1, "alice", "carol", "online"))
    history.append(sees(61_001, "alice", "carol", "online"))


def a_ghost(history: History) -> None:
    history.append(at(62_000, "went", "carol"))


def not_told(history: History) -> None:
    history.append(sees(63_000, "alice", "carol", "offline"))


def told_in_spite_of_all(history: History) -> None:
    history.append(sees(63_000, "bob", "carol", "online"))


BROKEN: list[Callable[[History], None]] = [
    before_she_came,
    after_the_lease,
    a_ghost,
    not_told,
    told_in_spite_of_all,
]


@pytest.mark.parametrize("break_it", BROKEN, ids=[one.__name__ for one in BROKEN])
def test_each_break_is_named(break_it: Callable[[History], None]) -> None:
    history = watched()
    break_it(history)
    (violation,) = check(history).violations
    assert violation.invariant is Invariant.I9
    assert len(violation.slice) == 1
    assert "carol" in violation.text


def test_what_was_shown_on_an_earlier_connection_is_void() -> None:
    history = [*watched(), at(64_000, "went", "carol"), at(65_000, "opened", "alice")]
    report = check(history, only=[Invariant.I9])
    assert report.ok, report.violations
