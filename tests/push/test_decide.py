"""Decisions over due jobs: the rules, their order, and their laws."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatmesh.v1 import devices_pb2
from push_svc.circuit import FAILURES_TO_OPEN, OPEN_FIRST_SECONDS, OPEN_MAX_SECONDS, Circuit
from push_svc.decide import (
    BACKOFF_MAX_SECONDS,
    RETRY_AFTER_MAX_SECONDS,
    Fire,
    Forget,
    Policy,
    Privacy,
    Provider,
    State,
    Void,
    Wait,
    backoff_seconds,
    decide,
)
from tests.push.parts import binding, entry, job, state

POLICY = Policy(active_delay_seconds=5)


def test_a_device_that_is_gone_is_forgotten() -> None:
    assert decide(job(), State(exists=False), POLICY) == Forget()


@pytest.mark.parametrize(
    ("of", "now", "reason"),
    [
        (job(5), state(5, acked_seq=5), "acked"),
        (job(5), state(9, acked_seq=7), "acked"),
        (job(9), state(5, acked_seq=5), "acked"),
        (job(9), state(0), "acked"),
        (job(5, binding=binding(pushed_seq=5, badge=5)), state(5), "told"),
        (job(9, binding=binding(pushed_seq=5, badge=5)), state(5), "told"),
        (job(5), state(5, visible=False), "muted or read"),
        (job(5), state(5, pending=(), pending_count=0), "muted or read"),
    ],
)
def test_what_needs_no_telling_is_void(of: Any, now: State, reason: str) -> None:
    assert decide(of, now, POLICY) == Void(reason)


def test_what_waits_is_fired_once_for_all() -> None:
    fire = decide(job(5), state(5, acked_seq=3), POLICY)
    assert isinstance(fire, Fire)
    assert [one.timeline_seq for one in fire.entries] == [4, 5]
    assert (fire.visible, fire.count, fire.badge, fire.told_seq) == (True, 2, 2, 5)


def test_what_was_told_is_not_counted_again() -> None:
    fire = decide(job(6, binding=binding(pushed_seq=4, badge=4)), state(6), POLICY)
    assert isinstance(fire, Fire)
    assert [one.timeline_seq for one in fire.entries] == [5, 6]
    assert fire.count == 2


def test_more_than_the_state_holds_are_counted() -> None:
    fire = decide(job(50), state(50), POLICY)
    assert isinstance(fire, Fire)
    assert (len(fire.entries), fire.count, fire.told_seq) == (5, 50, 50)


def test_an_active_device_is_given_time_and_no_more() -> None:
    active = state(5, other_device_active=True)
    assert decide(job(5, age_seconds=1.5), active, POLICY) == Wait(3.5)
    assert isinstance(decide(job(5, age_seconds=5), active, POLICY), Fire)


def test_muted_messages_change_the_badge_silently_where_one_was_told() -> None:
    quiet = state(5, visible=False, badge=3)
    assert decide(job(5, binding=binding(badge=3)), quiet, POLICY) == Void("muted or read")
    fire = decide(job(5, binding=binding(badge=2)), quiet, POLICY)
    assert fire == Fire(False, (), 0, 3, 0, 0)


def test_reading_elsewhere_dismisses_where_something_was_shown() -> None:
    dismissal = job(0, dismiss_seq=9, binding=binding(pushed_seq=9, badge=2))
    assert decide(dismissal, state(9, acked_seq=9, badge=0), POLICY) == Fire(False, (), 0, 0, 0, 9)
    never_told = job(0, dismiss_seq=9)
    assert isinstance(decide(never_told, state(9, acked_seq=9), POLICY), Void)


SEQ = st.integers(0, 12)


@st.composite
def states(draw: Any) -> State:
    acked, notify = draw(SEQ), draw(SEQ)
    loud = sorted(draw(st.sets(st.integers(acked + 1, 13), max_size=8)))
    loud = [seq for seq in loud if seq <= notify]
    return State(
        draw(st.booleans()),
        acked,
        notify,
        draw(st.integers(0, 3)),
        bool(loud) and draw(st.booleans()),
        tuple(map(entry, loud[-5:])),
        len(loud),
        draw(st.booleans()),
    )


@given(SEQ, states(), SEQ, st.integers(-1, 3), st.integers(0, 9), st.floats(0, 20))
def test_laws(seq: int, now: State, pushed: int, badge: int, dismiss: int, age: float) -> None:
    of = job(
        seq, age_seconds=age, dismiss_seq=dismiss, binding=binding(pushed_seq=pushed, badge=badge)
    )
    decision = decide(of, now, POLICY)
    if isinstance(decision, Wait):
        assert 0 < decision.seconds <= 5
        assert now.other_device_active
    if not isinstance(decision, Fire):
        return
    assert decision.badge == now.badge
    if not decision.visible:
        assert decision.told_seq == 0
        assert badge >= 0, "silence goes only to who was told before"
        return
    assert decision.entries, "a visible notification has something to say"
    assert decision.count >= len(decision.entries)
    assert all(one.timeline_seq > max(now.acked_seq, pushed) for one in decision.entries)
    assert decision.told_seq > pushed, "or it would be told for ever"
    assert now.visible


@given(st.integers(1, 10_000), st.floats(0, 0.999), st.none() | st.floats(0, 1e9))
def test_backoff_is_bounded_and_follows_the_provider(
    attempt: int, jitter: float, asked: float | None
) -> None:
    pause = backoff_seconds(attempt, jitter, asked)
    assert pause >= min(asked or 0, RETRY_AFTER_MAX_SECONDS)
    assert pause <= RETRY_AFTER_MAX_SECONDS + BACKOFF_MAX_SECONDS


def test_backoff_grows() -> None:
    pauses = [backoff_seconds(attempt, 0.5, None) for attempt in range(1, 12)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.75
    assert pauses[-1] == 225


def test_a_circuit_opens_probes_and_closes() -> None:
    circuit = Circuit()
    for _ in range(FAILURES_TO_OPEN - 1):
        circuit.failed(0)
        assert circuit.closed_for(0) == 0
    circuit.failed(0)
    assert circuit.closed_for(0) == OPEN_FIRST_SECONDS
    assert circuit.closed_for(OPEN_FIRST_SECONDS) == 0, "one may try"
    circuit.sending(OPEN_FIRST_SECONDS)
    assert circuit.closed_for(OPEN_FIRST_SECONDS) > 0, "and no other until it is known"
    circuit.failed(OPEN_FIRST_SECONDS)
    assert circuit.closed_for(OPEN_FIRST_SECONDS) == 2 * OPEN_FIRST_SECONDS
    later = 3 * OPEN_FIRST_SECONDS
    circuit.sending(later)
    circuit.worked()
    assert circuit.closed_for(later) == 0


def test_a_circuit_is_never_open_for_longer_than_its_most() -> None:
    circuit, now = Circuit(), 0.0
    for _ in range(50):
        circuit.sending(now)
        circuit.failed(now)
        now += circuit.closed_for(now)
    circuit.failed(now)
    assert circuit.closed_for(now) <= OPEN_MAX_SECONDS


def test_numbers_are_those_of_the_contract() -> None:
    assert {one.value for one in Privacy} == set(devices_pb2.PushPrivacy.values())
    assert {one.value for one in Provider} == set(devices_pb2.PushProvider.values()) - {0}
