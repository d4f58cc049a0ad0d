"""Entries of a session: holes, reads, the window, acks."""

import grpc

from chat_svc.core import effects
from chat_svc.core.session import State
from chatmesh.v1 import session_pb2 as pb
from tests.chat_core.driver import Driver

Reason = pb.Closed


def test_contiguous_is_written_and_repeats_are_dropped() -> None:
    driver = Driver(head=2)
    driver.go_live()
    for seq in (3, 3, 2, 4):
        driver.offer(seq)
    driver.drain()
    assert driver.received == [1, 2, 3, 4]
    assert driver.machine.effects == []


def test_a_hole_is_waited_for_and_then_read() -> None:
    driver = Driver(head=4)
    driver.go_live()
    driver.offer(6)
    driver.offer(8)
    driver.one(effects.WaitForHole)
    assert driver.drain() == []
    driver.machine.hole_due()
    read = driver.one(effects.Read)
    assert read.after_seq == 4
    driver.answer(read)
    driver.drain()
    assert driver.received == list(range(1, 9))
    assert driver.machine.effects == []


def test_a_hole_that_fills_by_itself_reads_nothing() -> None:
    driver = Driver(head=4)
    driver.go_live()
    driver.offer(6)
    driver.one(effects.WaitForHole)
    driver.offer(5)
    driver.machine.hole_due()
    driver.drain()
    assert driver.received[-2:] == [5, 6]
    assert driver.take(effects.Read) == []


def test_a_hint_without_an_entry_causes_a_read() -> None:
    driver = Driver(head=1)
    driver.go_live()
    driver.head = 2
    driver.machine.note_head(2)
    assert driver.serve_reads() == 1
    driver.drain()
    assert driver.received == [1, 2]


def test_a_forged_head_costs_one_read_and_is_forgotten() -> None:
    driver = Driver(head=1)
    driver.go_live()
    driver.machine.note_head(1_000, 1_000)
    assert driver.serve_reads() == 1
    assert not driver.machine.window.is_behind
    assert driver.machine.owed_to_push() <= 1, "nor is push owed for it"


def test_live_entries_pass_a_running_read() -> None:
    driver = Driver(head=1)
    driver.go_live()
    driver.machine.note_head(2)
    read = driver.one(effects.Read)
    driver.offer(2)
    driver.offer(3)
    driver.offer(5)
    driver.answer(read)
    driver.machine.hole_due()
    driver.serve_reads()
    driver.drain()
    assert driver.received == [1, 2, 3, 4, 5]


def test_a_failed_read_is_asked_for_again() -> None:
    driver = Driver(head=3)
    driver.open()
    driver.one(effects.Read)
    driver.machine.read_failed(driver.now)
    assert driver.take(effects.Read) == []
    driver.later(1.5)
    assert driver.serve_reads() == 1
    assert driver.drain()[-1].caught_up


def test_a_read_that_finds_nothing_where_a_head_was_promised_is_no_loop() -> None:
    driver = Driver(head=3)
    driver.go_live()
    driver.machine.note_head(4)
    read = driver.one(effects.Read)
    driver.machine.read_done([], 1, 4, driver.now)
    assert driver.take(effects.Read) == []
    driver.later(1.5)
    assert driver.one(effects.Read).after_seq == read.after_seq


def test_retention_that_passed_the_position_is_told() -> None:
    driver = Driver(head=9)
    driver.min_seq = 5
    driver.open(start=2)
    driver.serve_reads()
    closed = driver.closed()
    assert closed.reason == Reason.REASON_CURSOR_INVALID
    assert closed.problem.reason == "CURSOR_INVALID"


def test_a_rewound_history_is_told() -> None:
    driver = Driver(head=9)
    driver.go_live()
    driver.machine.note_head(12)
    driver.head = 5
    driver.serve_reads()
    assert driver.closed().reason == Reason.REASON_CURSOR_INVALID


def test_past_the_window_only_the_head_is_kept() -> None:
    driver = Driver(window_entries=8)
    driver.go_live()
    for seq in range(1, 1001):
        driver.offer(seq, size=500)
    driver.drain()
    window = driver.machine.window
    assert driver.received == list(range(1, 9))
    assert (window.unacked_entries, window.early_entries, window.head_seq) == (8, 0, 1000)
    assert driver.take(effects.Read) == []
    driver.ack(8)
    reads = driver.take(effects.Read)
    assert [(read.after_seq, read.max_entries) for read in reads] == [(8, 8)]


def test_a_slow_client_gets_everything_in_the_end() -> None:
    driver = Driver(window_entries=8, head=100)
    driver.open()
    while driver.received[-1:] != [100]:
        driver.serve_reads()
        driver.drain()
        driver.ack(driver.received[-1])
        driver.later(1)
    assert driver.received == list(range(1, 101))


def test_an_ack_tells_the_node() -> None:
    driver = Driver(head=3)
    driver.go_live()
    driver.ack(2)
    ack = driver.one(effects.Acked).ack
    assert (ack.timeline_seq, ack.message_id, ack.delivered) == (2, 2000, {77: 2})
    driver.ack(2)
    driver.ack(1)
    assert driver.machine.effects == []
    assert driver.machine.state is State.LIVE


def test_an_ack_above_what_was_sent_ends_the_session() -> None:
    driver = Driver(head=3)
    driver.go_live()
    driver.ack(4)
    closed = driver.closed()
    assert (closed.reason, closed.problem.reason) == (
        Reason.REASON_PROTOCOL_ERROR,
        "ACK_BEYOND_SENT",
    )
    assert closed.problem.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert dict(closed.problem.metadata) == {"sent": "3", "acked": "4"}


def test_an_ack_of_what_waits_but_did_not_leave_is_above() -> None:
    driver = Driver(head=0)
    driver.go_live()
    driver.offer(1)
    driver.ack(1)
    assert driver.closed().problem.reason == "ACK_BEYOND_SENT"


def test_no_ack_in_time_stops_writing_and_owes_a_push_that_the_ack_voids() -> None:
    driver = Driver()
    driver.go_live()
    driver.offer(1)
    driver.drain()
    for _ in range(6):
        driver.say(ping=pb.Ping())
        driver.later(2)
    assert driver.one(effects.PushOwed).timeline_seq == 1
    driver.offer(2)
    driver.say(ping=pb.Ping())
    driver.later(2)
    assert driver.one(effects.PushOwed).timeline_seq == 2
    assert [e for frame in driver.drain() for e in frame.entries] == []
    driver.ack(1)
    assert driver.one(effects.PushVoid).timeline_seq == 1
    driver.serve_reads()
    driver.drain()
    driver.ack(2)
    assert driver.one(effects.PushVoid).timeline_seq == 2
    driver.offer(3)
    driver.drain()
    driver.ack(3)
    assert driver.take(effects.PushVoid) == []
    assert driver.received == [1, 2, 3]


def test_silent_entries_owe_no_push() -> None:
    driver = Driver()
    driver.go_live()
    driver.offer(1)
    driver.drain()
    driver.ack(1)
    driver.machine.window.note_head(2)
    driver.say(ping=pb.Ping())
    driver.later(15)
    assert driver.take(effects.PushOwed) == []


def test_too_slow_for_too_long_ends_the_session() -> None:
    driver = Driver()
    driver.go_live()
    driver.offer(1)
    driver.drain()
    while driver.machine.state is State.LIVE:
        driver.say(ping=pb.Ping())
        driver.later(5)
    assert driver.closed().reason == Reason.REASON_TOO_SLOW
