"""Why a trace is short, told from the hops it has."""

import pytest

from chatmesh.cli.trace import why_it_ends

COMMITTED = {"chat.ids", "chat.commit", "chat.enqueue"}
QUEUED = {*COMMITTED, "sync.queue", "sync.lookup"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (COMMITTED, "no device yet"),
        (QUEUED, "no device of the recipient was connected"),
        ({*QUEUED, "sync.deliver"}, ""),
        ({*QUEUED, "push.job"}, ""),
        ({"chat.ids"}, ""),
    ],
)
def test_each_end_is_told(names: set[str], said: str) -> None:
    note = why_it_ends(names)
    assert (said in note) if said else note == ""
