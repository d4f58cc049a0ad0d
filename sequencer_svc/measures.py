"""Metrics of sequencer_svc."""

from typing import Final

from chatmesh.runtime.metrics import Spec

IDS: Final = Spec("chatmesh_sequencer_ids_total", "Ids given")
REFUSED: Final = Spec(
    "chatmesh_sequencer_refused_total", "Requests refused, by reason", ("reason",)
)
RESERVATIONS: Final = Spec(
    "chatmesh_sequencer_reservations_total",
    "Windows reserved or not, by kind: claimed, renewed, moved, lost, none",
    ("kind",),
)
WINDOW_LEFT_SECONDS: Final = Spec(
    "chatmesh_sequencer_window_left_seconds", "What is left of the reserved window; 0 = none"
)
BORROWED_SECONDS: Final = Spec(
    "chatmesh_sequencer_borrowed_seconds", "How far ids run ahead of the window's time"
)
WALL_CLOCK_OFF_SECONDS: Final = Spec(
    "chatmesh_sequencer_wall_clock_off_seconds",
    "This machine's wall clock minus the database's time; ids do not depend on it",
)
