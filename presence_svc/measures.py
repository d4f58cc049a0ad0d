"""What presence counts, besides what every server does."""

from typing import Final

from chatmesh.runtime.metrics import SIZE_BUCKETS, Spec

SESSIONS: Final = Spec(
    "chatmesh_presence_sessions_total", "Sessions taken in, by what became of them", ("outcome",)
)
NODES: Final = Spec("chatmesh_presence_nodes", "Chat nodes with a live lease")
REATTACHES: Final = Spec(
    "chatmesh_presence_reattaches_total", "Times a node was asked to attach all its sessions again"
)
LAPSED: Final = Spec(
    "chatmesh_presence_lapsed_total", "Sessions taken away because their node's lease had ended"
)
LOOKUPS: Final = Spec(
    "chatmesh_presence_lookup_accounts", "Accounts per lookup", buckets=SIZE_BUCKETS
)
UNKNOWN: Final = Spec("chatmesh_presence_unknown", "1 while answers are `unknown`")
WATCHED: Final = Spec("chatmesh_presence_watched", "Accounts that this replica watches")
NOTICES: Final = Spec("chatmesh_presence_notices_total", "Facts written to watching streams")
MISSED: Final = Spec(
    "chatmesh_presence_missed_total", "Buckets read again because notices of changes were lost"
)
