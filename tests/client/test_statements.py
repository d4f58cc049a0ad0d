"""Small frames: newest per key, said again until a later pong proves them."""

from chatmesh.client._statements import MAX_PENDING, Statements
from chatmesh.v1 import session_pb2 as pb


def drain(statements: Statements) -> list[str]:
    said: list[str] = []
    while (frame := statements.next_frame()) is not None:
        said.append(frame.WhichOneof("kind") or "")
    return said


def test_a_read_mark_is_monotonic_and_coalesced() -> None:
    statements = Statements()
    for number in (3, 5, 4):
        statements.mark_read(7, number)
    frame = statements.next_frame()
    assert frame is not None
    assert frame.mark_read.message_no == 5
    assert statements.next_frame() is None


def test_what_was_not_proved_is_said_again() -> None:
    statements = Statements()
    statements.mark_read(7, 3)
    statements.typing(7, True)
    assert drain(statements) == ["mark_read", "typing"]
    statements.session_lost()
    assert drain(statements) == ["mark_read"]
    statements.pinged(1)
    statements.confirmed(1)
    statements.session_lost()
    assert drain(statements) == []


def test_a_pong_proves_only_what_was_said_before_its_ping() -> None:
    statements = Statements()
    statements.pinged(1)
    statements.mark_read(7, 3)
    drain(statements)
    statements.confirmed(1)
    statements.session_lost()
    assert drain(statements) == ["mark_read"]


def test_every_session_is_told_state_and_watches() -> None:
    statements = Statements()
    statements.app_state(pb.AppState.STATE_BACKGROUND)
    statements.watch(["carol", "dave"], 9)
    statements.unwatch(["dave"])
    drain(statements)
    statements.session_lost()
    frames = [statements.next_frame(), statements.next_frame()]
    assert frames[0] is not None
    assert frames[0].app_state.state == pb.AppState.STATE_BACKGROUND
    assert frames[1] is not None
    assert list(frames[1].watch.user_ids) == ["carol"]
    assert frames[1].watch.open_conversation_id == 9


def test_what_waits_is_bounded() -> None:
    statements = Statements()
    for conversation in range(MAX_PENDING + 10):
        statements.mark_read(conversation, 1)
    assert len(drain(statements)) == MAX_PENDING
