"""The other frames of a session: marks, typing, presence, watches, pings, what breaks a rule."""

from typing import Any

import pytest

from chat_svc.core import effects
from chat_svc.core.frames import TYPING, piece
from chat_svc.core.limits import Limits
from chat_svc.core.session import AccountState
from chatmesh import errors
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1 import types_pb2
from tests.chat_core.builders import WALL_MS
from tests.chat_core.driver import Driver


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
