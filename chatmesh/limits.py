"""Every limit of the mesh: name, default, unit, reason.

Pure data. Services read the values in force from their settings (``CHATMESH_LIMIT_<NAME>``);
the ones a client meets are answered in ``welcome.limits``.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit.

    ``low`` and ``high`` bound what a deployment may set; no setting switches a limit off.
    """

    name: str
    default: int
    unit: str
    low: int
    high: int
    reason: str


ALL: tuple[Limit, ...] = (
    Limit("max_content_bytes", 65_536, "bytes", 256, 262_144,
          "one message must fit a frame, a timeline read and an 8 MiB mesh message many times"),
    Limit("max_send_batch", 100, "messages", 1, 1_000,
          "bounds the work that one client frame can ask for"),
    Limit("max_sends_in_flight", 256, "messages", 1, 4_096,
          "bounds a session's share of the next commit batches"),
    Limit("window_entries", 256, "entries", 8, 4_096,
          "entries written but not acked; past it the device is read from the store again"),
    Limit("window_bytes", 262_144, "bytes", 65_536, 4_194_304,
          "what a stalled device may cost in memory"),
    Limit("frames_per_second", 200, "frames/s", 5, 10_000,
          "sustained rate of client frames; batches go in one frame"),
    Limit("frames_burst", 400, "frames", 5, 20_000,
          "a reconnecting client may resend its outbox at once"),
    Limit("max_frame_bytes", 1_048_576, "bytes", 65_536, 4_194_304,
          "largest client frame; also the receive limit of the public listener"),
    Limit("max_group_members", 1_000, "members", 2, 1_000,
          "fan-out on write: one timeline row per member and event"),
    Limit("max_devices", 10, "devices", 1, 100,
          "each device is a route, a cursor and a push token"),
    Limit("idle_timeout_seconds", 20, "s", 5, 600,
          "a session without any frame this long is closed, so that a half-open one looks offline"),
    Limit("ack_timeout_seconds", 10, "s", 2, 120,
          "entries unacked this long are handed over to push"),
    Limit("edit_window_seconds", 86_400, "s", 0, 31_536_000,
          "how long a sender may edit"),
    Limit("key_age_days", 30, "days", 1, 30,
          "idempotency keys are kept 31 days of key time"),
    Limit("key_ahead_seconds", 86_400, "s", 60, 86_400,
          "how far a key's time may lie ahead of the server's clock"),
    Limit("max_watched_users", 500, "users", 0, 5_000,
          "interest of one session besides its contacts"),
    Limit("watched_contacts", 5_000, "contacts", 0, 50_000,
          "contacts whose presence one account's sessions are told by themselves"),
    Limit("presence_per_second", 20_000, "presences/s", 100, 1_000_000,
          "presences that one node puts before its sessions; more wait, the newest of each user"),
    Limit("away_seconds", 600, "s", 10, 86_400,
          "a device that says nothing of its user's doing this long counts as idle"),
    Limit("hello_timeout_seconds", 5, "s", 1, 60,
          "a stream that says nothing holds a slot"),
    Limit("max_metadata_pairs", 16, "pairs", 0, 64, "application data carried unchanged"),
    Limit("max_metadata_bytes", 1_024, "bytes", 0, 8_192, "application data carried unchanged"),
    Limit("max_mentions", 50, "users", 0, 200, "each is a membership check and a push decision"),
    Limit("max_attachments", 10, "attachments", 0, 50, "references only"),
    Limit("max_text_code_points", 16_384, "code points", 1, 65_536,
          "combining marks make few bytes slow to draw"),
    Limit("max_reactions", 100, "reactions", 1, 10_000,
          "set and taken back by one user on one message; each is an event for every member"),
    Limit("retention_days", 3_650, "days", 1, 36_500,
          "older entries leave the timelines, and a day later the events themselves go"),
    Limit("retention_entries", 1_000_000, "entries", 100, 1_000_000_000,
          "kept of one account's timeline; a cursor before them gets a snapshot"),
    Limit("commit_rows", 4_000, "timeline rows", 10, 20_000,
          "bounds one commit: how long its locks are held"),
    Limit("outbox_rows", 20_000, "rows", 100, 1_000_000,
          "unsettled commit batches of one node before sends answer RESOURCE_EXHAUSTED"),
    Limit("sessions_per_node", 50_000, "sessions", 10, 1_000_000, "memory of one node"),
)  # fmt: skip

FIXED: dict[str, str] = {
    "capabilities": "capabilities of one hello",
    "commit_queue": "messages that wait for a commit on one node",
    "count": "ids of one request",
    "max_collapse_key_bytes": "a push's collapse key, in bytes",
    "max_name_bytes": "a name of a device, client or attachment, in bytes",
    "max_reaction_bytes": "a reaction, in bytes",
    "max_status_code_points": "a status text, in code points",
    "page_size": "rows of one answer; each RPC has its own",
    "presence_max_watched": "accounts that one Watch stream may be interested in",
    "sessions": "sessions of one node in one full attach",
}
"""Limits that no deployment sets, and what they count. A refusal names one of these, one of ALL, or
the repeated field of the request that holds too much."""

STALLED_SESSION_BYTES = 512 * 1024
"""What a session may cost a chat node in memory while its device takes nothing, however much is
pending for it, at the default limits: the window of unacked entries (`window_bytes`) as gRPC holds
it, entries that came early (64 KiB), and the call itself. Held by `chatmesh bench stalled`."""

BY_NAME = {limit.name: limit for limit in ALL}
