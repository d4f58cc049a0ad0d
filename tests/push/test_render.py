"""Texts of notifications: golden ones per privacy, and what holds for all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from push_svc.decide import Entry, Fire, Privacy
from push_svc.render import (
    MAX_BODY_BYTES,
    MAX_BODY_CODE_POINTS,
    MAX_TITLE_CODE_POINTS,
    Notification,
    clean,
    cut,
    render,
)
from tests.push.parts import binding, entry, job


def fire(*entries: Entry, count: int = 0, visible: bool = True, dismiss_seq: int = 0) -> Fire:
    return Fire(visible, entries, count or len(entries), 7, 5 if visible else 0, dismiss_seq)


def rendered(of: Fire, privacy: Privacy = Privacy.FULL, **fields: Any) -> Notification:
    return render(job(**fields), of, privacy, ttl_seconds=60, summary_over=3)


ONE = fire(entry(5, "bob", "see you at 8"))
TWO = fire(entry(4, "bob", "hello"), entry(5, "carol", "hi"))
GROUP = fire(entry(5, "bob", "lunch?", title="Team"))
MANY = fire(*(entry(seq) for seq in range(1, 6)), count=17)


@pytest.mark.parametrize(
    ("of", "privacy", "title", "body"),
    [
        (ONE, Privacy.ID_ONLY, "", "New message"),
        (ONE, Privacy.SENDER, "bob", "New message"),
        (ONE, Privacy.FULL, "bob", "see you at 8"),
        (TWO, Privacy.ID_ONLY, "", "2 new messages"),
        (TWO, Privacy.SENDER, "bob, carol", "2 new messages"),
        (TWO, Privacy.FULL, "bob, carol", "bob: hello\ncarol: hi"),
        (GROUP, Privacy.SENDER, "Team", "New message"),
        (GROUP, Privacy.FULL, "Team", "bob: lunch?"),
        (MANY, Privacy.FULL, "bob", "17 new messages"),
        (fire(entry(5, text="")), Privacy.FULL, "bob", "New message"),
    ],
)
def test_golden_texts(of: Fire, privacy: Privacy, title: str, body: str) -> None:
    notification = rendered(of, privacy)
    assert (notification.title, notification.body) == (title, body)


def test_languages() -> None:
    german = rendered(MANY, Privacy.ID_ONLY, binding=binding(locale="de-AT"))
    assert german.body == "17 neue Nachrichten"
    unknown = rendered(MANY, Privacy.ID_ONLY, binding=binding(locale="tlh"))
    assert unknown.body == "17 new messages"


def test_identifiers_for_the_app() -> None:
    notification = rendered(TWO)
    assert notification.data == {
        "kind": "message",
        "badge": "7",
        "conversation_id": "77",
        "message_id": "50",
        "timeline_seq": "5",
        "count": "2",
    }
    silent = rendered(fire(visible=False, dismiss_seq=9))
    assert silent.data == {"kind": "sync", "badge": "7", "read_up_to_timeline_seq": "9"}
    assert (silent.visible, silent.title, silent.body) == (False, "", "")


def test_a_repetition_has_the_key_of_the_first_and_news_another() -> None:
    first = rendered(ONE, claim=1, attempt=1)
    again = rendered(TWO, claim=2, attempt=2)
    assert again.key == first.key == first.collapse, "more has come, but nothing was noted as told"
    assert rendered(ONE, binding=binding(pushed_seq=5)).key != first.key
    assert rendered(ONE, device_id="tablet").key != first.key
    assert len(first.key) <= 64


def test_the_senders_collapse_key_is_followed_within_its_conversation() -> None:
    one = rendered(fire(entry(5, collapse_key="score")))
    newer = rendered(fire(entry(9, collapse_key="score")), binding=binding(pushed_seq=5))
    other = rendered(fire(entry(9, collapse_key="score", conversation_id=78)))
    assert one.collapse == newer.collapse
    assert one.key != newer.key
    assert other.collapse != one.collapse


def test_urgency() -> None:
    assert not rendered(ONE).high_priority
    assert rendered(fire(entry(5, mention=True))).high_priority
    assert rendered(fire(entry(4, high_priority=True), entry(5))).high_priority


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\x00b\x1b[2Jc", "ab[2Jc"),
        ("a\r\nb\tc  d ", "a b c d"),
        ("\u202egnp.exe", "gnp.exe"),
        ("👩\u200d👩\u200d👧", "👩\u200d👩\u200d👧"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\x9b31m", "31m"),
    ],
)
def test_controls_go_and_joiners_stay(text: str, kept: str) -> None:
    assert clean(text) == kept


@given(st.text(), st.integers(1, 50), st.integers(4, 200))
def test_cutting(text: str, code_points: int, size: int) -> None:
    short = cut(text, code_points, size)
    assert len(short) <= code_points
    assert len(short.encode()) <= size
    if short != text:
        assert short.endswith("…")
        assert text.startswith(short[:-1])


ENTRY = st.builds(
    entry,
    st.integers(1, 9),
    st.text(min_size=1, max_size=200),
    st.text(max_size=2_000),
    title=st.just("") | st.text(max_size=300),
)


@given(
    st.lists(ENTRY, min_size=1, max_size=5),
    st.sampled_from([Privacy.ID_ONLY, Privacy.SENDER, Privacy.FULL]),
    st.integers(5, 1_000_000),
)
def test_nothing_is_too_long_and_nothing_is_told_that_may_not_be(
    entries: list[Entry], privacy: Privacy, count: int
) -> None:
    secret, name = "§secret§", "§name§"
    marked = [
        entry(one.timeline_seq, name + one.sender_user_id, secret + one.text, title=one.title)
        for one in entries
    ]
    for of in (fire(*marked), fire(*marked, count=count)):
        notification = rendered(of, privacy)
        assert len(notification.title) <= MAX_TITLE_CODE_POINTS
        assert len(notification.body) <= MAX_BODY_CODE_POINTS
        assert len(notification.body.encode()) <= MAX_BODY_BYTES
        everything = repr(notification)
        assert privacy is Privacy.FULL or secret not in everything
        assert privacy is not Privacy.ID_ONLY or name not in everything
