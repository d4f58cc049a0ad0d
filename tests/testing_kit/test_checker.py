"""The checker finds each broken promise, names it, and shows little more than what shows it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chatmesh.testing import Invariant, Recorder, check, read_history
from chatmesh.testing.history import HistoryBroken, Operation, digest_of
from tests.testing_kit.histories import CHAT, at, good, key

History = list[Operation]
I = Invariant  # noqa: E741 - as the table of invariants names them


def test_a_good_history_is_good() -> None:
    report = check(good())
    assert report.ok, report.violations
    assert report.counts["received"] == 15


def drop_everywhere_for_bob(history: History) -> None:
    """Bob's phone never gets the last message (and his head does not tell)."""
    del history[at(history, "received", "bob", "phone", 5)]
    del history[at(history, "acked", "bob", "phone", 5)]
    line = at(history, "final", "bob", "phone", 5)
    history[line] = replace(history[line], timeline_seq=4)


def hole(history: History) -> None:
    del history[at(history, "received", "bob", "phone", 3)]


def twice(history: History) -> None:
    line = at(history, "received", "alice", "laptop", 4)
    history.insert(line + 1, history[line])


def swapped(history: History) -> None:
    one, two = (at(history, "received", "bob", "phone", seq) for seq in (2, 3))
    history[one], history[two] = history[two], history[one]


def laptop_differs(history: History) -> None:
    line = at(history, "received", "alice", "laptop", 2)
    history[line] = replace(history[line], digest=digest_of("text 0"))


def other_order_for_bob(history: History) -> None:
    one, two = (at(history, "received", "bob", "phone", seq) for seq in (1, 2))
    first, second = history[one], history[two]
    history[one] = replace(second, timeline_seq=1)
    history[two] = replace(first, timeline_seq=2)


def two_messages_for_a_key(history: History) -> None:
    line = next(i for i, op in enumerate(history) if op.kind == "sent")
    history.insert(line + 1, replace(history[line], message_id=1, conversation_seq=77))


def doubled_for_bob(history: History) -> None:
    """The resend of message 5 became another message in Bob's timeline."""
    line = at(history, "received", "bob", "phone", 5)
    again = replace(
        history[line], timeline_seq=6, conversation_seq=6, message_no=6, message_id=6006
    )
    history.insert(line + 2, again)


def refused_but_there(history: History) -> None:
    line = at(history, "received", "bob", "phone", 5)
    ghost = replace(
        history[line],
        timeline_seq=6,
        conversation_seq=6,
        message_no=6,
        message_id=6006,
        digest=digest_of("nobody hears this"),
    )
    history.insert(line + 2, ghost)


def unknown_and_half_there(history: History) -> None:
    """The sender never got its answer, Bob has the message, Alice's laptop has not."""
    line = next(i for i, op in enumerate(history) if op.kind == "sent" and op.key == key(5))
    history[line] = replace(history[line], outcome="unknown", message_id=0, conversation_id=0)
    del history[at(history, "received", "alice", "laptop", 5)]
    del history[at(history, "acked", "alice", "laptop", 5)]


def nobody_said_it(history: History) -> None:
    line = at(history, "received", "bob", "phone", 5)
    history[line] = replace(history[line], digest=digest_of("forged"))


def said_by_another(history: History) -> None:
    for line, op in enumerate(history):
        if op.kind == "received" and op.conversation_seq == 5:
            history[line] = replace(op, sender="bob")


def stranger(history: History) -> None:
    members = Operation(kind="members", conversation_id=CHAT, users=("alice",), conversation_seq=0)
    history.insert(0, members)
    history.insert(0, replace(members, users=("bob",), until_seq=4))


def ack_falls(history: History) -> None:
    line = at(history, "acked", "bob", "phone", 4)
    history[line] = replace(history[line], timeline_seq=2)


def ack_beyond(history: History) -> None:
    line = at(history, "acked", "bob", "phone", 2)
    history[line] = replace(history[line], timeline_seq=3)


def resumed_beyond(history: History) -> None:
    line = at(history, "acked", "bob", "phone", 2)
    history.insert(line + 1, Operation(kind="opened", user="bob", device="phone", timeline_seq=4))


def not_converged(history: History) -> None:
    del history[at(history, "received", "bob", "phone", 5)]
    del history[at(history, "acked", "bob", "phone", 5)]


BROKEN: list[tuple[Callable[[History], None], set[Invariant]]] = [
    (drop_everywhere_for_bob, {I.I1}),
    (hole, {I.I1, I.I2}),
    (twice, {I.I2}),
    (swapped, {I.I2}),
    (laptop_differs, {I.I3, I.I6}),
    (other_order_for_bob, {I.I3}),
    (two_messages_for_a_key, {I.I4}),
    (doubled_for_bob, {I.I4}),
    (refused_but_there, {I.I5}),
    (unknown_and_half_there, {I.I5, I.I11}),
    (nobody_said_it, {I.I3, I.I6}),
    (said_by_another, {I.I6}),
    (stranger, {I.I6}),
    (ack_falls, {I.I7}),
    (ack_beyond, {I.I7}),
    (resumed_beyond, {I.I7}),
    (not_converged, {I.I1, I.I11}),
]


@pytest.mark.parametrize(
    ("break_it", "invariants"), BROKEN, ids=[row[0].__name__ for row in BROKEN]
)
def test_each_break_is_named(
    break_it: Callable[[History], None], invariants: set[Invariant]
) -> None:
    history = good()
    break_it(history)
    report = check(history)
    named = {violation.invariant for violation in report.violations}
    assert invariants <= named, report.violations
    for violation in report.violations:
        assert 1 <= len(violation.slice) <= 4, "the slice is small"
        assert violation.text


def test_every_invariant_is_broken_by_a_case() -> None:
    broken = set().union(*(invariants for _, invariants in BROKEN))
    elsewhere = {I.I8, I.I9}
    assert broken | elsewhere == set(Invariant), "by test_push_checks and test_presence_story"


def test_the_slice_points_at_the_lines() -> None:
    history = good()
    ack_beyond(history)
    (violation,) = check(history, only=[I.I7]).violations
    assert [op.kind for op in violation.slice] == ["received", "acked"]
    assert all(op.where.startswith("h:") for op in violation.slice)


def test_what_is_allowed_is_not_blamed() -> None:
    """A device killed before its ack gets entries again; a new one starts at the head; a message
    without an answer is nowhere; a snapshot replaces what was there."""
    history = good()
    line = at(history, "acked", "bob", "phone", 5)
    again = history[at(history, "received", "bob", "phone", 5)]
    opened = Operation(kind="opened", user="bob", device="phone", timeline_seq=4)
    tablet = Operation(kind="opened", user="bob", device="tablet", timeline_seq=5)
    final = Operation(kind="final", user="bob", device="tablet", timeline_seq=5)
    lost = Operation(
        kind="send", user="bob", key=key(99), to_user="alice", digest=digest_of("lost")
    )
    unknown = Operation(kind="sent", user="bob", key=key(99), outcome="unknown")
    history[line : line + 1] = [opened, again, replace(history[line]), tablet, final, lost, unknown]
    history += [
        Operation(kind="opened", user="bob", device="old", timeline_seq=0),
        Operation(kind="snapshot", user="bob", device="old", timeline_seq=5),
        Operation(kind="acked", user="bob", device="old", timeline_seq=5),
        Operation(kind="final", user="bob", device="old", timeline_seq=5),
    ]
    report = check(history)
    assert report.ok, report.violations


@pytest.mark.parametrize("is_known", [True, False])
def test_a_later_reader_sees_the_edited_text_where_an_edit_is_known(is_known: bool) -> None:
    """Devices that were live hold the first text and the edit; one that reads later the newest."""
    history = good()
    line = at(history, "received", "alice", "laptop", 4)
    history[line] = replace(history[line], digest=digest_of("edited"))
    story = [
        Operation(
            kind="send", user="bob", key=key(50), to_user="alice", digest=digest_of("edited")
        ),
        Operation(kind="sent", user="bob", key=key(50), outcome="unknown"),
    ]
    for user, device in (("alice", "phone"), ("alice", "laptop"), ("bob", "phone")):
        place = at(history, "acked", user, device, 5)
        edit = Operation(
            kind="received", user=user, device=device, timeline_seq=6, conversation_id=CHAT,
            conversation_seq=6, message_id=5006, sender="bob", content="server.edit",
            target_seq=4 if is_known else 0,
        )  # fmt: skip
        history.insert(place + 1, edit)
    report = check([*story, *history])
    assert report.ok is is_known, report.violations
    assert is_known or I.I3 in report.found


def test_random_losses_are_always_found() -> None:
    """Whatever single reception is dropped, doubled or changed, the checker is not silent."""
    seeded = random.Random(7)
    for _ in range(200):
        history = good()
        lines = [i for i, op in enumerate(history) if op.kind == "received"]
        line = seeded.choice(lines)
        match seeded.randrange(3):
            case 0:
                del history[line]
            case 1:
                history.insert(line, history[line])
            case _:
                history[line] = replace(history[line], message_id=1)
        assert not check(history).ok


def test_files_hold_what_was_recorded(tmp_path: Path) -> None:
    history = good()
    with Recorder(tmp_path / "a.jsonl", "a") as recorder:
        for op in history[:20]:
            recorder.record(
                op.kind, **{name: getattr(op, name) for name in ("user", "device", "users")}
            )
    read = read_history([tmp_path / "a.jsonl"])
    assert [op.kind for op in read] == [op.kind for op in history[:20]]
    assert read[3].where == "a.jsonl:4"
    assert {op.process for op in read} == {"a"}


def test_a_torn_last_line_is_left_out_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = Operation(kind="acked", user="bob", timeline_seq=3).to_json()
    path.write_text(f"{line}\n{line[:10]}")
    assert len(read_history([path])) == 1
    path.write_text(f"{line[:10]}\n{line}\n")
    with pytest.raises(HistoryBroken, match=r"a\.jsonl:1"):
        read_history([path])
    with pytest.raises(HistoryBroken, match="No such file"):
        read_history([tmp_path / "missing"])
