"""The limits in force of one chat node, as the pure cores read them.

Defaults, bounds and reasons are in ``chatmesh.limits``; ``settings`` fills this from the
environment. Pure data.
"""

from dataclasses import dataclass

from chatmesh import limits as table
from chatmesh.v1 import types_pb2


def _default(name: str) -> int:
    return table.BY_NAME[name].default


@dataclass(frozen=True, slots=True)
class Limits:
    """One value per limit of ``chatmesh.limits.ALL``; units are in that table."""

    max_content_bytes: int = _default("max_content_bytes")
    max_send_batch: int = _default("max_send_batch")
    max_sends_in_flight: int = _default("max_sends_in_flight")
    window_entries: int = _default("window_entries")
    window_bytes: int = _default("window_bytes")
    frames_per_second: int = _default("frames_per_second")
    frames_burst: int = _default("frames_burst")
    max_frame_bytes: int = _default("max_frame_bytes")
    max_group_members: int = _default("max_group_members")
    max_devices: int = _default("max_devices")
    idle_timeout_seconds: int = _default("idle_timeout_seconds")
    ack_timeout_seconds: int = _default("ack_timeout_seconds")
    edit_window_seconds: int = _default("edit_window_seconds")
    key_age_days: int = _default("key_age_days")
    key_ahead_seconds: int = _default("key_ahead_seconds")
    max_watched_users: int = _default("max_watched_users")
    watched_contacts: int = _default("watched_contacts")
    presence_per_second: int = _default("presence_per_second")
    away_seconds: int = _default("away_seconds")
    hello_timeout_seconds: int = _default("hello_timeout_seconds")
    max_metadata_pairs: int = _default("max_metadata_pairs")
    max_metadata_bytes: int = _default("max_metadata_bytes")
    max_mentions: int = _default("max_mentions")
    max_attachments: int = _default("max_attachments")
    max_text_code_points: int = _default("max_text_code_points")
    max_reactions: int = _default("max_reactions")
    retention_days: int = _default("retention_days")
    retention_entries: int = _default("retention_entries")
    commit_rows: int = _default("commit_rows")
    outbox_rows: int = _default("outbox_rows")
    sessions_per_node: int = _default("sessions_per_node")

    def public(self) -> types_pb2.Limits:
        """What ``welcome.limits`` says."""
        message = types_pb2.Limits()
        for field in types_pb2.Limits.DESCRIPTOR.fields:
            setattr(message, field.name, getattr(self, field.name))
        return message
