"""Messages of a session: offered in order, answered once, limited."""

import pytest

from chat_svc.core import effects
from chat_svc.core.session import State
from chatmesh.v1 import session_pb2 as pb
from tests.chat_core.builders import message
from tests.chat_core.driver import Driver

Reason = pb.Closed


def result(number: int) -> bytes:
    return pb.SendResult(message_id=number).SerializeToString()


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
