"""What a client does after each end of a session, as a table."""

import pytest

from chatmesh.client import errors
from chatmesh.client._comeback import Comeback
from chatmesh.client._moves import Config, Ended, Next, Reconnect, TakeSnapshot
from chatmesh.client._pace import Backoff, FrameBucket
from chatmesh.client._problem import with_advice
from chatmesh.v1 import session_pb2 as pb

Reason, Advice = pb.Closed.Reason, pb.Closed.Reconnect


def comeback(renew: bool = True) -> Comeback:
    return Comeback(Config(can_renew_token=renew), lambda: 0.5)


CLOSED: list[tuple[str, str, type[Next], type[errors.ChatmeshError] | None]] = [
    ("REPLACED", "NEVER", Ended, errors.SessionReplaced),
    ("REPLACED", "NOW", Ended, errors.SessionReplaced),
    ("REVOKED", "NEVER", Ended, errors.DeviceRefused),
    ("DEVICE_REFUSED", "NEVER", Ended, errors.DeviceRefused),
    ("TOKEN_EXPIRED", "NOW", Reconnect, None),
    ("DRAINED", "NOW", Reconnect, None),
    ("REBALANCED", "AFTER", Reconnect, None),
    ("TOO_SLOW", "AFTER", Reconnect, None),
    ("PROTOCOL_ERROR", "AFTER", Reconnect, None),
    ("PROTOCOL_ERROR", "NEVER", Ended, errors.SessionEnded),
    ("CURSOR_INVALID", "NEVER", TakeSnapshot, None),
    ("IDLE", "NOW", Reconnect, None),
    ("RATE_LIMITED", "AFTER", Reconnect, None),
    ("UNAVAILABLE", "AFTER", Reconnect, None),
    ("CLIENT_DONE", "NOW", Reconnect, None),
    ("UNSPECIFIED", "UNSPECIFIED", Reconnect, None),
]


@pytest.mark.parametrize(("reason", "advice", "kind", "error"), CLOSED)
def test_closed(
    reason: str, advice: str, kind: type[Next], error: type[errors.ChatmeshError] | None
) -> None:
    closed = pb.Closed(
        reason=Reason.Value(f"REASON_{reason}"), reconnect=Advice.Value(f"RECONNECT_{advice}")
    )
    next_ = comeback().after_closed(closed, moved=False)
    assert type(next_) is kind
    if isinstance(next_, Ended):
        assert error is not None
        assert type(next_.error) is error


def test_every_reason_is_in_the_table() -> None:
    assert {f"REASON_{row[0]}" for row in CLOSED} == set(Reason.keys())


def test_a_drained_node_is_left_for_another() -> None:
    for reason in (Reason.REASON_DRAINED, Reason.REASON_REBALANCED):
        closed = pb.Closed(reason=reason, reconnect=Advice.RECONNECT_NOW)
        assert comeback().after_closed(closed, moved=False) == Reconnect(0.0, elsewhere=True)


def test_now_means_now_once() -> None:
    closed = pb.Closed(reason=Reason.REASON_IDLE, reconnect=Advice.RECONNECT_NOW)
    after = comeback()
    first, second = after.after_closed(closed, False), after.after_closed(closed, False)
    assert isinstance(first, Reconnect)
    assert isinstance(second, Reconnect)
    assert first.after_seconds == 0.0 < second.after_seconds


def test_advice_to_wait_is_a_lower_bound() -> None:
    closed = pb.Closed(
        reason=Reason.REASON_TOO_SLOW, reconnect=Advice.RECONNECT_AFTER, reconnect_after_ms=4000
    )
    next_ = comeback().after_closed(closed, moved=False)
    assert isinstance(next_, Reconnect)
    assert next_.after_seconds >= 4.0


@pytest.mark.parametrize(
    ("reason", "code", "kind"),
    [
        ("NOT_SERVING", "UNAVAILABLE", Reconnect),
        ("INTERNAL", "INTERNAL", Reconnect),
        ("RATE_LIMITED", "RESOURCE_EXHAUSTED", Reconnect),
        ("ACK_BEYOND_SENT", "INVALID_ARGUMENT", Reconnect),
        ("BAD_DEVICE_ID", "INVALID_ARGUMENT", Ended),
        ("DEVICE_REFUSED", "PERMISSION_DENIED", Ended),
        ("SESSION_REPLACED", "ABORTED", Ended),
        ("UNIMPLEMENTED", "UNIMPLEMENTED", Ended),
        ("TOKEN_EXPIRED", "UNAUTHENTICATED", Reconnect),
    ],
)
def test_status(reason: str, code: str, kind: type[Next]) -> None:
    assert type(comeback().after_error(with_advice(reason, code, "text"))) is kind


def test_a_refused_token_is_fetched_anew_once() -> None:
    refused = with_advice("TOKEN_INVALID", "UNAUTHENTICATED", "text")
    assert isinstance(comeback(renew=False).after_error(refused), Ended)
    after = comeback()
    assert isinstance(after.after_error(refused), Reconnect)
    assert isinstance(after.after_error(refused), Ended)
    after.welcomed()
    assert isinstance(after.after_error(refused), Reconnect)


def test_backoff_grows_to_its_cap_and_is_reset() -> None:
    backoff = Backoff(0.1, 5.0, lambda: 1.0)
    waits = [backoff.next() for _ in range(10)]
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(0.1)
    assert waits[-1] == pytest.approx(5.0)
    backoff.good()
    assert backoff.next() == pytest.approx(0.1)


def test_the_bucket_stays_below_the_servers_rate() -> None:
    bucket, now, frames = FrameBucket(), 100.0, 0
    bucket.configure(frames_per_second=200, frames_burst=400, now=now)
    while now < 110.0:
        now = bucket.ready_at(now)
        bucket.spend(now)
        frames += 1
    assert frames <= 200 * 10 + 400
    assert frames >= 160 * 10
