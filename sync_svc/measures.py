"""What sync counts, besides what every server does."""

from typing import Final

from chatmesh.runtime.metrics import Spec

BATCHES: Final = Spec(
    "chatmesh_sync_batches_total",
    "Batches by what became of them: queued, memory, refused, read, done, forgotten, poison",
    ("outcome",),
)
HINTS: Final = Spec(
    "chatmesh_sync_hints_total",
    "Hints by what became of them: taken, no_session, no_answer, waiting",
    ("outcome",),
)
PUSHES: Final = Spec("chatmesh_sync_pushes_total", "Push targets committed by push_svc")
DEAD_LETTERS: Final = Spec(
    "chatmesh_sync_dead_letters_total", "Hints that could not be handled", ("outcome",)
)
LINKS: Final = Spec("chatmesh_sync_links", "Open Deliver streams")
LINKS_CLOSED: Final = Spec(
    "chatmesh_sync_links_closed_total", "Deliver streams given up, by cause", ("cause",)
)
SIGNALS_DROPPED: Final = Spec(
    "chatmesh_sync_signals_dropped_total", "Signals not delivered because a queue was full"
)
LAG_SECONDS: Final = Spec("chatmesh_sync_lag_seconds", "Age of the oldest batch not yet settled")
OPEN_BATCHES: Final = Spec("chatmesh_sync_open_batches", "Batches read and not yet settled")
OPEN_BYTES: Final = Spec("chatmesh_sync_open_bytes", "Bytes of batches held in this process")
