"""What push counts, besides what every server does."""

from typing import Final

from chatmesh.runtime.metrics import PUSH_JOBS, PUSH_PENDING, SIZE_BUCKETS, Spec

__all__ = ["JOBS_PUT", "PUSH_JOBS", "PUSH_PENDING", "REPEATED", "SENDS", "SEND_SECONDS"]

JOBS_PUT: Final = Spec(
    "chatmesh_push_put_batch", "Targets per transaction that makes jobs", buckets=SIZE_BUCKETS
)
SENDS: Final = Spec(
    "chatmesh_push_sends_total", "Requests to providers, by outcome", ("provider", "outcome")
)
SEND_SECONDS: Final = Spec(
    "chatmesh_push_send_seconds", "Time of one request to a provider", ("provider",)
)
REPEATED: Final = Spec(
    "chatmesh_push_repeated_total",
    "Requests that may repeat an earlier one whose outcome is unknown",
    ("provider",),
)
