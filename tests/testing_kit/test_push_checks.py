"""I8: each way to break it is named, and what is allowed is not blamed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from chatmesh.testing import Invariant, check
from chatmesh.testing._push_checks import UNDER_WAY_NS
from chatmesh.testing.history import Operation
from tests.testing_kit.histories import at, good, key

History = list[Operation]


def pushed(seq: int, device: str = "tablet", user: str = "bob", **values: object) -> Operation:
    made = Operation(kind="pushed", user=user, device=device, timeline_seq=seq, key=key(700 + seq))
    return replace(made, **values)  # type: ignore[arg-type]


def with_pushes() -> History:
    """Bob's phone acks everything; his tablet was bound after position 1, stayed away and was told
    of 3 and 5; carol's only device was never here and was told of 2."""
    return [
        *good(),
        Operation(kind="token", user="bob", device="phone"),
        Operation(kind="token", user="bob", device="tablet", timeline_seq=1),
        pushed(3),
        pushed(5),
        Operation(kind="away", user="bob", device="tablet", timeline_seq=5),
        Operation(kind="token", user="carol", device="phone"),
        pushed(2, "phone", "carol"),
        Operation(kind="away", user="carol", device="phone", timeline_seq=2),
    ]


def test_a_good_history_is_good() -> None:
    report = check(with_pushes())
    assert report.ok, report.violations


def neither(history: History) -> None:
    del history[at(history, "pushed", "bob", "tablet", 5)]


def neither_and_nobody_else_knows(history: History) -> None:
    del history[at(history, "pushed", "carol", "phone", 2)]


def silent_only(history: History) -> None:
    line = at(history, "pushed", "bob", "tablet", 5)
    history[line] = replace(history[line], content="silent")


def told_of_less(history: History) -> None:
    line = at(history, "pushed", "bob", "tablet", 5)
    history[line] = replace(history[line], timeline_seq=4)


def told_twice(history: History) -> None:
    history.insert(at(history, "pushed", "bob", "tablet", 5) + 1, pushed(5, key=key(1)))


def told_backwards(history: History) -> None:
    history.append(pushed(2, key=key(2)))


def told_of_what_it_acked(history: History) -> None:
    line = at(history, "acked", "bob", "phone", 4)
    history[line] = replace(history[line], at_ns=1)
    history.append(pushed(4, "phone", at_ns=2 + UNDER_WAY_NS))


def an_ack_that_never_came(history: History) -> None:
    """The phone stored all and acked up to 4 only; nobody told it of 5."""
    del history[at(history, "acked", "bob", "phone", 5)]


BROKEN: list[Callable[[History], None]] = [
    neither,
    neither_and_nobody_else_knows,
    silent_only,
    told_of_less,
    told_twice,
    told_backwards,
    told_of_what_it_acked,
    an_ack_that_never_came,
]


@pytest.mark.parametrize("break_it", BROKEN, ids=[one.__name__ for one in BROKEN])
def test_each_break_is_named(break_it: Callable[[History], None]) -> None:
    history = with_pushes()
    break_it(history)
    (violation,) = check(history).violations
    assert violation.invariant is Invariant.I8
    assert 1 <= len(violation.slice) <= 2
    assert violation.text


def silent_badge(history: History) -> None:
    history += [pushed(5, content="silent"), pushed(5, content="silent")]


def repeated_request(history: History) -> None:
    """The answer was lost: the same notification under the same key."""
    history.insert(at(history, "pushed", "bob", "tablet", 5), pushed(5))


def crossed(history: History) -> None:
    """The notification was under way when the ack came."""
    line = at(history, "acked", "bob", "phone", 4)
    history[line] = replace(history[line], at_ns=1)
    history.append(pushed(4, "phone", at_ns=UNDER_WAY_NS))


def bound_later(history: History) -> None:
    line = at(history, "token", "bob", "tablet", 1)
    history[line] = replace(history[line], timeline_seq=5)
    for seq in (3, 5):
        del history[at(history, "pushed", "bob", "tablet", seq)]


def own_message_at_the_end(history: History) -> None:
    """Bob's own message is nothing to tell his tablet of."""
    for line, op in enumerate(history):
        if op.kind == "received" and op.conversation_seq == 5:
            history[line] = replace(op, sender="bob")
    del history[at(history, "pushed", "bob", "tablet", 5)]
    history.append(pushed(4))


def no_token(history: History) -> None:
    del history[at(history, "token", "bob", "tablet", 1)]
    del history[at(history, "pushed", "bob", "tablet", 5)]


ALLOWED = (silent_badge, repeated_request, crossed, bound_later, own_message_at_the_end, no_token)


@pytest.mark.parametrize("change", ALLOWED, ids=[one.__name__ for one in ALLOWED])
def test_what_is_allowed_is_not_blamed(change: Callable[[History], None]) -> None:
    history = with_pushes()
    change(history)
    assert check(history, only=[Invariant.I8]).ok


def test_random_losses_are_always_found() -> None:
    """Whichever last word of a device is lost, acks and notifications alike."""
    for seed in range(50):
        history = with_pushes()
        last = [
            line
            for line, op in enumerate(history)
            if op.kind in ("acked", "pushed")
            and (op.user, op.device) in (("bob", "phone"), ("bob", "tablet"), ("carol", "phone"))
            and op.timeline_seq
            == max(
                one.timeline_seq
                for one in history
                if (one.kind, one.user, one.device) == (op.kind, op.user, op.device)
            )
        ]
        del history[random.Random(seed).choice(last)]
        assert not check(history, only=[Invariant.I8]).ok, seed
