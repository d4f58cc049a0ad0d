"""Positions of one session: contiguous, bounded, never acked beyond what left."""

import pytest

from chat_svc.core import window as window_module
from chat_svc.core.window import AckBeyondSent, Window
from tests.chat_core.builders import CONVERSATION, item


def started(max_entries: int = 8, max_bytes: int = 10_000) -> Window:
    made = Window(max_entries, max_bytes)
    made.start(4, 4, now=0.0)
    return made


def test_the_worked_case_of_the_text() -> None:
    window = started()
    assert not window.queue(item(6), 0)
    assert window.keep_early(item(6))
    assert window.queue(item(5), 0)
    early = window.next_early()
    assert early is not None
    assert window.queue(early, 0)
    assert not window.queue(item(5), 0)
    assert (window.queued_seq, window.early_entries, window.is_behind) == (6, 0, False)


def test_an_ack_moves_only_forward_and_never_above_what_left() -> None:
    window = started()
    for seq in (5, 6, 7):
        assert window.queue(item(seq), 1.0)
    window.took(2)
    with pytest.raises(AckBeyondSent):
        window.ack(7, 2.0)
    ack = window.ack(6, 2.0)
    assert ack is not None
    assert (ack.timeline_seq, ack.message_id, ack.delivered) == (6, 6000, {CONVERSATION: 6})
    assert window.ack(6, 3.0) is None
    assert window.ack(5, 3.0) is None
    assert window.progress_at == 2.0
    assert window.unacked_entries == 1


def test_own_entries_count_for_no_delivered_receipt() -> None:
    window = started()
    window.queue(item(5, own=True), 0)
    window.queue(item(6, conversation=2), 0)
    window.took(2)
    ack = window.ack(6, 0)
    assert ack is not None
    assert ack.delivered == {2: 6}


def test_the_window_is_bounded_in_entries_and_bytes() -> None:
    window = started(max_entries=3)
    assert [window.queue(item(seq), 0) for seq in range(5, 9)] == [True, True, True, False]
    size = len(item(5).piece)
    window = started(max_bytes=size * 2)
    assert [window.queue(item(seq), 0) for seq in range(5, 8)] == [True, True, False]
    assert window.unacked_bytes == 2 * size
    window = started(max_bytes=10)
    assert window.queue(item(5, 5000), 0), "an empty window takes one of any size"
    assert not window.queue(item(6), 0)


def test_it_reads_again_when_a_quarter_is_free() -> None:
    window = started(max_entries=8)
    for seq in range(5, 13):
        assert window.queue(item(seq), 0)
    window.took(8)
    window.note_head(40)
    assert window.room_to_read() == (0, 0)
    window.ack(5, 0)
    assert window.room_to_read() == (0, 0)
    window.ack(6, 0)
    assert window.room_to_read()[0] == 2
    window.ack(12, 0)
    assert window.room_to_read()[0] == 8


def test_what_came_early_is_bounded_and_forgotten_when_passed() -> None:
    window = started(max_entries=500, max_bytes=1 << 20)
    kept = [window.keep_early(item(seq)) for seq in range(6, 80)]
    assert kept.count(True) == window_module.EARLY_ENTRIES
    for seq in range(5, 30):
        window.queue(item(seq), 0)
    early = window.next_early()
    assert early is not None
    assert early.timeline_seq == 30
    assert window.next_early() is None
    assert window.early_entries == window_module.EARLY_ENTRIES - 25
    window.drop_early()
    assert window.keep_early(item(90, window_module.EARLY_BYTES)) is False


def test_what_push_would_be_for() -> None:
    window = started()
    assert window.owed_to_push() == 0
    window.queue(item(5, notifies=False), 0)
    assert window.owed_to_push() == 0
    window.note_head(9, 8)
    assert window.owed_to_push() == 8
    window.queue(item(6), 0)
    window.took(2)
    window.ack(6, 0)
    assert window.owed_to_push() == 8


def test_sampled_entries_are_found_for_their_spans() -> None:
    window = started()
    window.queue(item(5), 0)
    window.queue(item(6, trace=b"t" * 25), 0)
    window.queue(item(7, trace=b"t" * 25), 0)
    window.took(2)
    assert [entry.timeline_seq for entry in window.traced_since(4)] == [6]
    ack = window.ack(6, 0)
    assert ack is not None
    assert [entry.timeline_seq for entry in ack.traced] == [6]
