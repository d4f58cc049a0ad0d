"""The merge over devices: the table of docs/presence.md, row by row, and its laws."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_svc.merge import Fact, Session, State, Wish, merge
from tests.presence.parts import DESKTOP, NOW_MS, PHONE

DOC = Path(__file__).parents[2] / "docs" / "presence.md"
ACTIVE = Session(1, "phone", 1, PHONE, True)
IDLE = Session(2, "laptop", 1, DESKTOP, False)
WISHES: dict[str, list[Wish | None]] = {
    "any": [None, Wish(), Wish(State.DO_NOT_DISTURB), Wish(State.INVISIBLE)],
    "none or `ONLINE`": [None, Wish()],
    "`DO_NOT_DISTURB`": [Wish(State.DO_NOT_DISTURB)],
    "`INVISIBLE`": [Wish(State.INVISIBLE)],
}
SESSIONS: dict[str, tuple[Session, ...]] = {
    "none": (),
    "none, and presence is warming up": (),
    "all in the background or idle": (IDLE,),
    "at least one active": (IDLE, ACTIVE),
}


def rows() -> list[tuple[str, str, str]]:
    """The table of the document: sessions, wish, state."""
    text = DOC.read_text("utf-8").split("## The merge", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \| `([A-Z_]+)` \|$", text, re.MULTILINE)
    assert len(found) >= 8
    return found


@pytest.mark.parametrize(("sessions", "wish", "state"), rows())
def test_the_table(sessions: str, wish: str, state: str) -> None:
    for one in WISHES[wish]:
        fact = merge(
            SESSIONS[sessions],
            one,
            last_seen_ms=7,
            now_ms=NOW_MS,
            unknown="warming" in sessions,
        )
        expected = State.UNKNOWN if state == "UNSPECIFIED" else State[state]
        assert fact.state is expected, (sessions, one)
        seen = fact.state in (State.AWAY, State.ONLINE, State.DO_NOT_DISTURB)
        assert fact.last_seen_ms == (0 if seen else 7)


SESSION = st.builds(
    Session,
    st.integers(1, 3),
    st.sampled_from("abcd"),
    st.integers(1, 5),
    st.integers(0, 5),
    st.booleans(),
)
WISH = st.builds(
    Wish,
    st.sampled_from([State.ONLINE, State.DO_NOT_DISTURB, State.INVISIBLE]),
    st.text(max_size=5),
    st.integers(0, 2 * NOW_MS),
)


@given(
    st.lists(SESSION, unique_by=lambda session: session.device_id),
    st.none() | WISH,
    st.booleans(),
    st.integers(0, 2 * NOW_MS),
    st.randoms(use_true_random=False),
)
def test_laws(
    sessions: list[Session], wish: Wish | None, unknown: bool, now_ms: int, random: object
) -> None:
    def merged(of: list[Session], is_unknown: bool = unknown) -> Fact:
        return merge(of, wish, last_seen_ms=0, now_ms=now_ms, unknown=is_unknown)

    fact = merged(sessions)
    assert merged(sessions[::-1]) == fact, "the order of devices does not matter"
    assert (fact.state in (State.OFFLINE, State.UNKNOWN)) == (not sessions)
    if sessions:
        assert merged(sessions, not unknown) == fact, "a session is news whatever is unknown"
    assert set(fact.online_kinds) == {session.kind for session in sessions}
    assert list(fact.online_kinds) == sorted(set(fact.online_kinds))
    if wish is None or 0 < wish.status_until_ms <= now_ms:
        assert fact.status_text == ""
    else:
        assert fact.status_text == wish.status_text
