"""What one chat node counts: plain integers on the message path, exported once a second.

A prometheus counter costs half a microsecond a call, an attribute a thirtieth; so the path adds to
attributes, and ``export`` carries the differences over. The performance tests read these names.
"""

from dataclasses import dataclass, fields
from typing import Final

from chatmesh.runtime import metrics
from chatmesh.runtime.metrics import Spec

_SPECS: Final = {
    "messages_committed": "Messages stored for the first time",
    "messages_repeated": "Messages answered from an earlier key",
    "messages_refused": "Messages refused by the commit",
    "commit_batches": "Commit calls",
    "commit_retries": "Commit calls run again (deadlock, lost connection, lock timeout)",
    "commit_bisections": "Batches halved to find a poisoned message",
    "id_requests": "Requests for blocks of ids",
    "hints_sent": "Hints handed to the sync queue",
    "hint_frames": "Batches of hints handed to the sync queue",
    "signals_sent": "Receipts and typing handed to the sync queue",
    "signals_refused": "Receipts and typing dropped: not signed by a chat node within a minute",
    "hints_received": "Hints delivered to this node",
    "hints_refused": "Hints whose digest did not match: read from the store instead",
    "deliver_frames": "Frames received on Deliver streams",
    "client_frames_in": "Frames read from clients",
    "client_frames_out": "Frames written to clients",
    "entries_out": "Entries written to clients",
    "results_out": "Send results written to clients",
    "entries_local": "Entries offered to sessions of the committing node itself",
    "fill_reads": "Timeline reads for sessions",
    "cursor_writes": "Batches of cursors written",
    "mark_writes": "Batches of read and delivered marks written",
    "head_reads": "Comparisons of sessions with their timelines' heads",
    "push_handovers": "Devices handed over to push",
    "outbox_resends": "Outbox rows sent again",
    "done_refused": "Batches called done whose settled hints are not those committed",
    "sessions_opened": "Sessions opened",
    "sessions_ended": "Sessions ended",
    "presence_shown": "Presences put before sessions",
    "presence_delayed": "Presences that waited: the node's pace, or a device that reads slowly",
    "contacts_unwatched": "Contacts that sessions do not watch: above the limit of contacts",
    "search_events": "Events looked at for the search index",
    "keyed_dropped": "Receipts, presence and typing dropped for devices that do not read",
}


@dataclass(slots=True)
class NodeCounters:
    """One attribute per counter; see ``_SPECS`` for what they count."""

    messages_committed: int = 0
    messages_repeated: int = 0
    messages_refused: int = 0
    commit_batches: int = 0
    commit_retries: int = 0
    commit_bisections: int = 0
    id_requests: int = 0
    hints_sent: int = 0
    hint_frames: int = 0
    signals_sent: int = 0
    signals_refused: int = 0
    hints_received: int = 0
    hints_refused: int = 0
    deliver_frames: int = 0
    client_frames_in: int = 0
    client_frames_out: int = 0
    entries_out: int = 0
    results_out: int = 0
    entries_local: int = 0
    fill_reads: int = 0
    cursor_writes: int = 0
    mark_writes: int = 0
    head_reads: int = 0
    push_handovers: int = 0
    outbox_resends: int = 0
    done_refused: int = 0
    sessions_opened: int = 0
    sessions_ended: int = 0
    presence_shown: int = 0
    presence_delayed: int = 0
    contacts_unwatched: int = 0
    search_events: int = 0
    keyed_dropped: int = 0


class CounterExport:
    """Carries a node's counters to /metrics."""

    def __init__(self, counters: NodeCounters) -> None:
        self._counters = counters
        self._told = NodeCounters()
        self._metrics = {
            field.name: metrics.counter(
                Spec(f"chatmesh_chat_{field.name}_total", _SPECS[field.name])
            )
            for field in fields(counters)
        }

    def export(self) -> None:
        """Add what was counted since the last call."""
        for name, metric in self._metrics.items():
            value = getattr(self._counters, name)
            told = getattr(self._told, name)
            if value != told:
                metric.inc(value - told)
                setattr(self._told, name, value)
