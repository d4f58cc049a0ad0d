"""Single rules of the session machine that random walks reach too seldom to be trusted with."""

from __future__ import annotations

import pytest

from chatmesh.client import errors
from chatmesh.client._moves import (
    Config,
    Cut,
    Ended,
    HalfClose,
    Reconnect,
    TakeSnapshot,
    Wait,
    Write,
)
from chatmesh.client._progress import Cursor
from chatmesh.client._session import Session
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1.types_pb2 import Entry, Event
from tests.client.server_model import LIMITS

START = 100.0


def opened(cursor: Cursor | None = None, at: float = START) -> Session:
    """A machine whose hello is written."""
    session = Session(Config(device_id="phone"), cursor, lambda: 0.5)
    session.open_stream(at)
    assert isinstance(session.step(at), Write)
    return session


def live(cursor: Cursor | None = None) -> Session:
    """A machine that was welcomed."""
    session = opened(cursor)
    start = cursor.timeline_seq if cursor else 0
    welcome = pb.Welcome(
        user_id="alice", device_id="phone", start_timeline_seq=start, head_timeline_seq=start + 50,
        limits=LIMITS,
    )  # fmt: skip
    session.receive(pb.ServerFrame(welcome=[welcome]), START)
    return session


def entries(first: int, last: int) -> pb.ServerFrame:
    return pb.ServerFrame(
        entries=[
            Entry(timeline_seq=seq, event=Event(message_id=seq)) for seq in range(first, last + 1)
        ]
    )


def kind(step: object) -> str | None:
    return step.frame.WhichOneof("kind") if isinstance(step, Write) else None


def test_a_stream_without_welcome_is_given_up() -> None:
    session = opened()
    assert session.step(START) == Wait(START + 10)
    assert isinstance(session.step(START + 10), Cut)


def test_silence_is_broken_by_pings_and_a_missing_pong_is_death() -> None:
    session = live()
    wait = session.step(START)
    assert isinstance(wait, Wait)
    third = START + LIMITS.idle_timeout_seconds / 3
    assert wait.until == pytest.approx(third)
    assert kind(session.step(third)) == "ping"
    assert isinstance(session.step(third + 19.9), Wait)
    assert isinstance(session.step(third + 20), Cut)


def test_a_pong_keeps_the_session() -> None:
    session = live()
    assert kind(session.step(START + 7)) == "ping"
    session.receive(pb.ServerFrame(pong=[pb.Pong(nonce=1)]), START + 8)
    assert isinstance(session.step(START + 13), Wait)
    assert kind(session.step(START + 15)) == "ping"


def test_acks_are_joined_but_never_wait_for_a_quarter_of_the_window() -> None:
    session = live()
    session.receive(entries(1, 16), START)
    session.stored(Cursor(1, 1), 0)
    assert kind(session.step(START)) == "ack"
    session.stored(Cursor(3, 3), 0)
    assert isinstance(session.step(START + 0.001), Wait)
    step = session.step(START + 0.101)
    assert kind(step) == "ack"
    session.stored(Cursor(9, 9), 0)
    step = session.step(START + 0.102)
    assert isinstance(step, Write)
    assert step.frame.ack.up_to_timeline_seq == 9, "6 of 16 are too many to wait"


def test_acks_of_large_entries_do_not_wait_until_the_window_is_full_of_bytes() -> None:
    session = live()
    session.limits.window_bytes = 4_000
    session.receive(entries(1, 1), START)
    session.stored(Cursor(1, 1), 0)
    assert kind(session.step(START)) == "ack"
    for seq, size, due in ((2, 10, None), (3, 1_100, "ack"), (4, 10, None)):
        large = Entry(timeline_seq=seq, event=Event(message_id=seq, sender_user_id="x" * size))
        session.receive(pb.ServerFrame(entries=[large]), START + 0.01 * seq)
        session.stored(Cursor(seq, seq), 0)
        assert kind(session.step(START + 0.01 * seq)) == due


@pytest.mark.parametrize(("per_second", "most"), [(5, 1.0), (50, 0.25), (200, 0.26), (1_000, 0.26)])
def test_acks_per_entry_fall_with_the_load(per_second: int, most: float) -> None:
    session = live()
    acks = 0
    for seq in range(1, 401):
        now = START + seq / per_second
        session.receive(entries(seq, seq), now)
        session.stored(Cursor(seq, seq), 0)
        acks += kind(session.step(now)) == "ack"
    assert acks / 400 <= most
    assert session.progress.ackable == 400


def test_acks_of_a_void_epoch_do_nothing() -> None:
    session = live(Cursor(5, 5))
    session.receive(entries(6, 8), START)
    session.receive(
        pb.ServerFrame(closed=[pb.Closed(reason=pb.Closed.REASON_CURSOR_INVALID)]), START
    )
    assert session.lost(None, START) == TakeSnapshot()
    session.stored(Cursor(8, 8), 0)
    assert session.progress.stored == Cursor(5, 5)


def test_going_away_moves_after_its_time_and_not_before() -> None:
    session = live()
    away = pb.GoingAway(reconnect_after_ms=1000)
    session.receive(pb.ServerFrame(going_away=[away]), START)
    assert isinstance(session.step(START + 1.0), Wait)
    assert isinstance(session.step(START + 1.13), HalfClose)
    done = pb.Closed(reason=pb.Closed.REASON_CLIENT_DONE)
    session.receive(pb.ServerFrame(closed=[done]), START + 1.2)
    assert session.lost(None, START + 1.2) == Reconnect(0.0, elsewhere=True)


def test_a_half_close_that_is_not_answered_is_cut() -> None:
    session = live()
    session.leave()
    assert isinstance(session.step(START), HalfClose)
    assert isinstance(session.step(START + 2.9), Wait)
    assert isinstance(session.step(START + 3), Cut)
    assert session.lost(errors.Unavailable("cut"), START + 3) == Ended(None)


def test_a_gap_ends_the_stream_and_nothing_of_it_is_passed_on() -> None:
    session = live()
    received = session.receive(entries(2, 3), START)
    assert not received.entries
    assert isinstance(session.step(START), Cut)


def test_backoff_grows_over_useless_sessions_only() -> None:
    session, waits = Session(Config(device_id="phone"), None, lambda: 1.0), []
    welcome = pb.ServerFrame(welcome=[pb.Welcome(user_id="alice", limits=LIMITS)])
    for useful in (False, False, False, True):
        session.open_stream(START)
        session.step(START)
        session.receive(welcome, START)
        if useful:
            session.receive(entries(1, 1), START)
        next_ = session.lost(errors.Unavailable("cut"), START)
        assert isinstance(next_, Reconnect)
        waits.append(next_.after_seconds)
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.1])


def test_a_history_that_went_back_needs_a_snapshot() -> None:
    session = live(Cursor(5, 5))
    session.receive(entries(6, 8), START)
    session.lost(errors.Unavailable("x"), START)
    session.open_stream(START)
    session.step(START)
    welcome = pb.Welcome(start_timeline_seq=5, head_timeline_seq=6, limits=LIMITS)
    session.receive(pb.ServerFrame(welcome=[welcome]), START)
    assert isinstance(session.step(START), Cut)
    assert session.lost(errors.Unavailable("cut"), START) == TakeSnapshot()
    next_ = session.snapshot_taken(Cursor(6, 60))
    assert isinstance(next_, Reconnect)
    assert session.progress.hello_cursor() is not None


def test_a_snapshot_that_fails_is_taken_again_later() -> None:
    session = live()
    next_ = session.snapshot_failed(errors.Unavailable("away"))
    assert isinstance(next_, TakeSnapshot)
    assert next_.after_seconds > 0
    assert isinstance(session.snapshot_failed(errors.Unsupported("no")), Ended)


def test_a_server_without_limits_is_spoken_to_carefully() -> None:
    session = opened()
    session.receive(pb.ServerFrame(welcome=[pb.Welcome(user_id="alice")]), START)
    assert isinstance(session.step(START), Wait)
