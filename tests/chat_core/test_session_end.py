"""Rates, timeouts and the ends of a session."""

import grpc

from chat_svc.core.session import TOKEN_SKEW_MS, State
from chatmesh.v1 import session_pb2 as pb
from tests.chat_core.builders import WALL_MS, message
from tests.chat_core.driver import Driver

Reason = pb.Closed


def result(number: int) -> bytes:
    return pb.SendResult(message_id=number).SerializeToString()


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
