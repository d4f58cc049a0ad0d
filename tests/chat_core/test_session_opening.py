"""How a session opens: hello, welcome, and what came meanwhile."""

import grpc
import pytest

from chat_svc.core import effects
from chat_svc.core.session import State
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1 import types_pb2
from tests.chat_core.driver import Driver

Reason = pb.Closed


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
