"""The rules of a session, frame by frame."""

from typing import Any

import grpc
import pytest

from chat_svc.core import effects
from chat_svc.core.frames import TYPING, piece
from chat_svc.core.limits import Limits
from chat_svc.core.session import TOKEN_SKEW_MS, AccountState, State
from chatmesh import errors
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1 import types_pb2
from tests.chat_core.builders import WALL_MS, message
from tests.chat_core.driver import Driver

Reason = pb.Closed


def result(number: int) -> bytes:
    return pb.SendResult(message_id=number).SerializeToString()


# -- opening


def test_hello_then_welcome_then_entries_then_caught_up() -> None:
    driver = Driver(head=3)
    welcome = driver.open()
    read = driver.one(effects.Read)
    assert (read.after_seq, read.max_entries) == (0, 256)
    driver.answer(read)
    frames = driver.drain()
    assert frames[0] == pb.ServerFrame(welcome=[welcome])
    assert [e.timeline_seq for e in frames[1].entries] == [1, 2, 3]
    assert frames[1].caught_up[0].timeline_seq == 3


def test_a_device_at_the_head_still_reads_once_and_is_caught_up() -> None:
    driver = Driver(head=7)
    driver.open(start=7)
    driver.head = 8  # committed before the route was known: told nobody
    driver.answer(driver.one(effects.Read))
    frames = driver.drain()
    assert [e.timeline_seq for e in frames[-1].entries] == [8]
    assert frames[-1].caught_up[0].timeline_seq == 7
    driver.offer(9)
    assert not driver.drain()[0].caught_up, "once per session"


def test_what_comes_while_opening_is_remembered() -> None:
    driver = Driver(head=3)
    driver.say(hello=pb.Hello(device_id="d"))
    driver.offer(4)
    driver.machine.opened(pb.Welcome(head_timeline_seq=3), driver.now)
    driver.serve_reads()
    driver.drain()
    assert driver.received == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "frame",
    [{"ping": pb.Ping()}, {"send": pb.Send()}, {"ack": pb.Ack()}, {"watch": pb.Watch()}],
    ids=["ping", "send", "ack", "watch"],
)
def test_the_first_frame_is_hello(frame: dict[str, object]) -> None:
    driver = Driver()
    driver.say(**frame)
    closed = driver.closed()
    assert closed.reason == Reason.REASON_PROTOCOL_ERROR
    assert closed.problem.reason == "NO_HELLO"
    assert closed.reconnect == Reason.RECONNECT_NEVER
    ending = driver.machine.ending
    assert ending is not None
    assert ending.fault is not None
    assert ending.fault.code is grpc.StatusCode.FAILED_PRECONDITION


def test_a_second_hello_ends_the_session() -> None:
    driver = Driver()
    driver.go_live()
    driver.say(hello=pb.Hello(device_id="d1"))
    assert driver.closed().problem.reason == "SECOND_HELLO"


def test_a_second_hello_while_opening_ends_the_session() -> None:
    driver = Driver()
    driver.say(hello=pb.Hello(device_id="d1"))
    driver.say(hello=pb.Hello(device_id="d1"))
    assert driver.closed().problem.reason == "SECOND_HELLO"
    driver.machine.opened(pb.Welcome(), driver.now)
    assert driver.machine.state is State.CLOSED


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (pb.Hello(device_id="a b"), "BAD_DEVICE_ID"),
        (pb.Hello(device_id="d" * 65), "BAD_DEVICE_ID"),
        (pb.Hello(device_id="d\n"), "BAD_DEVICE_ID"),
        (pb.Hello(device_name="n" * 65), "INVALID_FIELD"),
        (pb.Hello(client_version="v" * 65), "INVALID_FIELD"),
        (pb.Hello(capabilities=["c"] * 17), "INVALID_FIELD"),
    ],
)
def test_bad_hellos(hello: pb.Hello, reason: str) -> None:
    driver = Driver()
    driver.say(hello=hello)
    assert driver.closed().problem.reason == reason


def test_what_hello_says() -> None:
    driver = Driver()
    driver.say(
        hello=pb.Hello(
            cursor=types_pb2.Cursor(timeline_seq=4, message_id=9),
            capabilities=["x", "slim_echo"],
            start=pb.Hello.START_HEAD,
        )
    )
    assert driver.one(effects.Open) == effects.Open("", 0, "", (4, 9), 2, True)


def test_a_stream_that_says_nothing_is_closed() -> None:
    driver = Driver()
    driver.later(driver.limits.hello_timeout_seconds + 0.1)
    assert driver.closed().problem.reason == "NO_HELLO"


# -- entries


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


# -- the window and acks


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


# -- sends


def test_sends_are_offered_in_order_and_answered() -> None:
    driver = Driver()
    driver.go_live()
    driver.say(send=pb.Send(messages=[message("a", 1), message("b", 2)]))
    offer = driver.one(effects.Offer)
    assert [checked.key for checked in offer.messages] == [
        message("", 1).idempotency_key,
        message("", 2).idempotency_key,
    ]
    assert driver.machine.in_flight == 2
    driver.machine.result(result(1))
    driver.machine.result(result(2))
    assert [r.message_id for r in driver.drain()[0].send_results] == [1, 2]
    assert driver.machine.in_flight == 0


def test_a_bad_message_is_refused_and_the_stream_goes_on() -> None:
    driver = Driver()
    driver.go_live()
    driver.say(send=pb.Send(messages=[message("a", 1), message("", 2), message("c", 3)]))
    assert len(driver.one(effects.Offer).messages) == 2
    (refused,) = driver.drain()[0].send_results
    assert refused.problem.reason == "CONTENT_EMPTY"
    assert refused.idempotency_key == message("", 2).idempotency_key
    assert driver.machine.state is State.LIVE


def test_stop_on_error_refuses_what_follows() -> None:
    driver = Driver()
    driver.go_live()
    driver.say(
        send=pb.Send(
            messages=[message("a", 1), message("", 2), message("c", 3)], stop_on_error=True
        )
    )
    offer = driver.one(effects.Offer)
    assert (len(offer.messages), offer.stop_on_error) == (1, True)
    reasons = [r.problem.reason for r in driver.drain()[0].send_results]
    assert reasons == ["CONTENT_EMPTY", "PREVIOUS_REFUSED"]


def test_the_batch_limit_at_zero_and_one_above() -> None:
    driver = Driver(max_send_batch=3)
    driver.go_live()
    driver.say(send=pb.Send(messages=[message("a", n) for n in range(3)]))
    assert len(driver.one(effects.Offer).messages) == 3
    driver.say(send=pb.Send(messages=[message("a", n) for n in range(4)]))
    assert driver.take(effects.Offer) == []
    assert {r.problem.reason for r in driver.drain()[0].send_results} == {"BATCH_TOO_LARGE"}
    driver.say(send=pb.Send(messages=[message("a", n) for n in range(1001)]))
    assert driver.closed().problem.reason == "BATCH_TOO_LARGE"


def test_an_empty_send_has_no_key_to_answer() -> None:
    driver = Driver()
    driver.go_live()
    driver.say(send=pb.Send())
    assert driver.closed().problem.reason == "BATCH_EMPTY"


def test_sends_in_flight_are_limited() -> None:
    driver = Driver(max_sends_in_flight=2)
    driver.go_live()
    driver.say(send=pb.Send(messages=[message("a", n) for n in range(3)]))
    assert len(driver.one(effects.Offer).messages) == 2
    assert driver.drain()[0].send_results[0].problem.reason == "SENDS_IN_FLIGHT"
    driver.machine.result(result(1))
    driver.say(send=pb.Send(messages=[message("a", 4)]))
    assert len(driver.one(effects.Offer).messages) == 1


@pytest.mark.parametrize("text", ["", "fine"])
def test_a_client_that_does_not_read_its_results_fills_no_memory(text: str) -> None:
    driver = Driver(frames_per_second=10_000, frames_burst=20_000)
    driver.go_live()
    frames = 0
    while driver.machine.state is State.LIVE and frames < 1_000:
        driver.say(send=pb.Send(messages=[message(text, n) for n in range(100)]))
        for _ in range(driver.machine.in_flight):
            driver.machine.result(result(1))
        frames += 1
    assert frames < 50
    assert driver.closed().reason == Reason.REASON_TOO_SLOW


# -- the other frames


def test_a_user_who_does_nothing_is_away_though_the_application_pings() -> None:
    driver = Driver()
    driver.go_live()
    changes: list[bool] = []

    def pass_time(seconds: float, **frame: Any) -> None:
        driver.now += seconds
        driver.say(**frame)
        driver.machine.tick(driver.now, WALL_MS)
        changes.extend(
            effect.active
            for effect in driver.machine.effects
            if isinstance(effect, effects.ActivityChanged)
        )
        driver.machine.effects.clear()

    for _ in range(100):
        pass_time(10, ping=pb.Ping(nonce=1))
    assert changes == [False]
    assert not driver.machine.active
    pass_time(1, typing=pb.SetTyping(conversation_id=1, active=True))
    assert (changes, driver.machine.active) == ([False, True], True)
    pass_time(1, app_state=pb.AppState(state=pb.AppState.STATE_BACKGROUND))
    pass_time(1, mark_read=pb.MarkRead(conversation_id=1, message_no=1))
    assert changes == [False, True, False], "in the background it is away whatever comes"
    pass_time(1, app_state=pb.AppState(state=pb.AppState.STATE_FOREGROUND))
    assert changes == [False, True, False, True]


def test_watched_users_are_bounded_over_all_frames() -> None:
    driver = Driver()
    driver.go_live()
    most = Limits().max_watched_users
    driver.say(watch=pb.Watch(user_ids=[f"u{n}" for n in range(most)], open_conversation_id=7))
    driver.say(watch=pb.Watch(user_ids=["u0", "u1", "x" * 129], remove=True))
    driver.say(watch=pb.Watch(user_ids=["y" * 129, "u1"]))
    *_, first, second, third = driver.machine.effects
    assert isinstance(first, effects.WatchChanged)
    assert (len(first.users), first.open_conversation) == (most, 7)
    assert isinstance(second, effects.WatchChanged)
    assert len(second.users) == most - 2
    assert isinstance(third, effects.WatchChanged)
    assert third.users - second.users == {"u1"}, "a name too long is nobody's"
    assert third.open_conversation == 0
    driver.say(watch=pb.Watch(user_ids=["new", "newer"]))
    assert driver.machine.ending is not None
    assert driver.machine.ending.fault is not None
    assert driver.machine.ending.fault.reason == "LIMIT_EXCEEDED"


def test_marks_typing_presence_watch_and_state() -> None:
    driver = Driver()
    driver.go_live()
    driver.say(mark_read=pb.MarkRead(conversation_id=1, message_no=2))
    driver.say(mark_read=pb.MarkRead(conversation_id=1))
    driver.say(typing=pb.SetTyping(conversation_id=1, active=True))
    driver.say(
        set_presence=pb.SetPresence(state=types_pb2.PRESENCE_STATE_DO_NOT_DISTURB, status_text="x")
    )
    driver.say(app_state=pb.AppState(state=pb.AppState.STATE_BACKGROUND))
    driver.say(app_state=pb.AppState(state=pb.AppState.STATE_BACKGROUND))
    driver.say(watch=pb.Watch(user_ids=["carol"]))
    driver.say(renew_token=pb.RenewToken(token="t"))
    assert driver.machine.effects == [
        effects.MarkRead(1, 2),
        effects.Typing(1, True),
        effects.PresenceWish(4, "x", 0),
        effects.ActivityChanged(False),
        effects.WatchChanged(frozenset(["carol"]), 0),
        effects.VerifyToken("t"),
    ]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ({"set_presence": pb.SetPresence(status_text="s" * 141)}, "INVALID_FIELD"),
        ({"watch": pb.Watch(user_ids=["u"] * 501)}, "LIMIT_EXCEEDED"),
        ({}, "EMPTY_FRAME"),
    ],
)
def test_frames_that_break_a_rule(frame: dict[str, object], reason: str) -> None:
    driver = Driver()
    driver.go_live()
    driver.say(**frame)
    assert driver.closed().problem.reason == reason


def test_ping_is_answered_from_memory_while_nothing_changed() -> None:
    driver = Driver()
    driver.go_live()
    driver.say(ping=pb.Ping(nonce=5))
    (pong,) = driver.drain()[0].pong
    assert (pong.nonce, pong.account_version, pong.unread, pong.mentions) == (5, 3, 2, 1)
    assert pong.server_time_ms == WALL_MS
    driver.offer(1, own=True)
    driver.say(ping=pb.Ping(nonce=6))
    assert driver.drain()[-1].pong[0].nonce == 6
    driver.offer(2)
    driver.say(ping=pb.Ping(nonce=7))
    assert driver.one(effects.AccountStateWanted).nonce == 7
    driver.machine.account_state(AccountState(4, 3, 1), 7, WALL_MS)
    (pong,) = driver.drain()[-1].pong
    assert (pong.nonce, pong.account_version, pong.unread) == (7, 4, 3)


def test_pieces_are_put_only_while_live() -> None:
    driver = Driver()
    typing = piece(TYPING, pb.Typing(conversation_id=1).SerializeToString())
    driver.machine.put(TYPING, b"k", typing)
    assert not driver.machine.frames
    driver.go_live()
    driver.machine.put(TYPING, b"k", typing)
    assert driver.drain()[0].typing[0].conversation_id == 1


def test_undecodable_bytes_end_the_session() -> None:
    driver = Driver()
    driver.go_live()
    driver.machine.undecodable(errors.UNDECODABLE())
    assert driver.closed().problem.reason == "UNDECODABLE"


# -- rates and times


def test_frames_faster_than_the_limit_end_the_session() -> None:
    driver = Driver(frames_per_second=10, frames_burst=5)
    driver.go_live()
    for _ in range(4):
        driver.say(ping=pb.Ping())
    assert driver.machine.state is State.LIVE
    driver.say(ping=pb.Ping())
    closed = driver.closed()
    assert closed.reason == Reason.REASON_RATE_LIMITED
    assert closed.problem.reason == "RATE_LIMITED"
    assert closed.problem.retry_after_ms > 0


def test_the_sustained_rate_is_allowed_for_ever() -> None:
    driver = Driver(frames_per_second=10, frames_burst=5)
    driver.go_live()
    for _ in range(100):
        driver.say(ping=pb.Ping())
        driver.later(0.1001)
    assert driver.machine.state is State.LIVE


def test_a_silent_client_is_closed() -> None:
    driver = Driver()
    driver.go_live()
    driver.later(19)
    driver.say(ping=pb.Ping())
    driver.later(19)
    assert driver.machine.state is State.LIVE
    driver.later(2)
    closed = driver.closed()
    assert (closed.reason, closed.HasField("problem")) == (Reason.REASON_IDLE, False)
    assert closed.reconnect == Reason.RECONNECT_AFTER


def test_the_token_ends_the_session_unless_renewed() -> None:
    driver = Driver()
    driver.machine.token_expires_at_ms = WALL_MS
    driver.go_live()
    driver.machine.tick(driver.now, WALL_MS + TOKEN_SKEW_MS)
    assert driver.machine.state is State.LIVE
    driver.machine.token_renewed(WALL_MS + 1000)
    driver.machine.tick(driver.now, WALL_MS + TOKEN_SKEW_MS + 1000)
    assert driver.machine.state is State.LIVE
    driver.machine.tick(driver.now, WALL_MS + TOKEN_SKEW_MS + 1001)
    closed = driver.closed()
    assert closed.reason == Reason.REASON_TOKEN_EXPIRED
    assert closed.problem.code == grpc.StatusCode.UNAUTHENTICATED.value[0]


# -- ends


def test_half_close_ends_when_everything_is_answered() -> None:
    driver = Driver()
    driver.go_live()
    driver.say(send=pb.Send(messages=[message()]))
    driver.machine.half_closed()
    assert driver.machine.state is State.LIVE
    driver.offer(1, own=True)
    driver.machine.result(result(1))
    assert driver.closed().reason == Reason.REASON_CLIENT_DONE
    assert [e.timeline_seq for frame in driver.frames for e in frame.entries] == [1]


def test_half_close_before_and_while_opening() -> None:
    driver = Driver()
    driver.machine.half_closed()
    assert driver.closed().problem.reason == "NO_HELLO"
    driver = Driver()
    driver.say(hello=pb.Hello())
    driver.machine.half_closed()
    driver.machine.opened(pb.Welcome(), driver.now)
    assert driver.closed().reason == Reason.REASON_CLIENT_DONE


def test_the_first_end_wins_and_results_still_leave() -> None:
    driver = Driver()
    driver.go_live()
    driver.say(send=pb.Send(messages=[message()]))
    driver.offer(1)
    driver.machine.close(Reason.REASON_REPLACED)
    driver.machine.close(Reason.REASON_IDLE)
    driver.machine.result(result(1))
    driver.offer(2)
    driver.say(ping=pb.Ping())
    frames = driver.drain()
    assert [len(frame.send_results) for frame in frames] == [1, 0]
    assert frames[-1].closed[0].reason == Reason.REASON_REPLACED
    assert not any(frame.entries for frame in frames)
    driver.machine.result(result(2))
    assert not driver.machine.frames


def test_going_away_goes_on() -> None:
    driver = Driver()
    driver.go_live()
    driver.machine.going_away(pb.GoingAway.REASON_DRAINING, 700)
    driver.offer(1)
    (frame,) = driver.drain()
    assert frame.going_away[0].reconnect_after_ms == 700
    assert frame.entries


def test_every_reason_has_an_advice() -> None:
    for reason in pb.Closed.Reason.values():
        driver = Driver()
        driver.machine.close(reason)
        assert driver.closed().reason == reason
