"""Positions: contiguous, monotonic, and a rewound history is noticed."""

import pytest

from chatmesh.client._progress import Cursor, GapSeen, HistoryRewound, Progress
from chatmesh.v1.types_pb2 import Entry, Event


def entry(seq: int, message_id: int = 0) -> Entry:
    return Entry(timeline_seq=seq, event=Event(message_id=message_id or 100 + seq))


def seqs(entries: list[Entry]) -> list[int]:
    return [one.timeline_seq for one in entries]


def test_known_entries_are_dropped_and_new_ones_kept_in_order() -> None:
    progress = Progress(Cursor(3, 103))
    assert not progress.opened(start=3, head=9)
    assert seqs(progress.receive([entry(4), entry(5)])) == [4, 5]
    assert seqs(progress.receive([entry(4), entry(5), entry(6)])) == [6]


def test_a_gap_is_never_passed_on() -> None:
    progress = Progress(Cursor(3, 103))
    with pytest.raises(GapSeen):
        progress.receive([entry(5)])


def test_another_message_at_a_known_position_is_a_rewind() -> None:
    progress = Progress(Cursor(3, 103))
    progress.receive([entry(4), entry(5)])
    with pytest.raises(HistoryRewound):
        progress.receive([entry(4, 999)])


def test_a_head_below_what_was_seen_is_a_rewind() -> None:
    progress = Progress(Cursor(3, 103))
    progress.receive([entry(4)])
    with pytest.raises(HistoryRewound):
        progress.opened(start=3, head=3)


def test_a_new_device_begins_where_the_server_says_and_keeps_it() -> None:
    progress = Progress(None)
    assert progress.hello_cursor() is None
    assert progress.opened(start=41, head=50)
    cursor = progress.hello_cursor()
    assert cursor is not None
    assert (cursor.timeline_seq, cursor.message_id) == (41, 0)


def test_the_cursor_rises_only_and_frees_what_is_held() -> None:
    progress = Progress(Cursor(0, 0))
    progress.opened(0, 0)
    progress.receive([entry(n) for n in range(1, 6)])
    progress.store(Cursor(4, 104))
    progress.store(Cursor(2, 102))
    assert progress.stored == Cursor(4, 104)
    assert (progress.held, progress.to_ack) == (1, 4)
    assert progress.cursor_at(5) == Cursor(5, 105)
    assert progress.cursor_at(4) is None


def test_a_snapshot_starts_anew() -> None:
    progress = Progress(Cursor(3, 103))
    progress.receive([entry(4)])
    epoch = progress.epoch
    progress.void()
    progress.reset(Cursor(2, 55))
    assert progress.epoch == epoch + 1
    assert seqs(progress.receive([entry(3)])) == [3]
