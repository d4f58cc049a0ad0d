"""Settings of chat_svc: what every public server has, its peers, and the limits in force."""

from __future__ import annotations

import hashlib
import socket
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator

from chat_svc.core.limits import Limits
from chatmesh import limits as table
from chatmesh.runtime.addresses import check_target
from chatmesh.runtime.settings import Target, is_local, rule
from chatmesh.runtime.settings_public import PublicServerSettings

MIN_HINT_KEY_CHARACTERS = 16
_ANY_ADDRESS = ("0.0.0.0:", "[::]:")


def _limit(name: str) -> Any:
    limit = table.BY_NAME[name]
    return Field(
        default=limit.default,
        ge=limit.low,
        le=limit.high,
        description=f"{limit.low} to {limit.high} {limit.unit}: {limit.reason}.",
    )


class ChatSettings(PublicServerSettings):
    """Environment: CHATMESH_<FIELD>, or CHATMESH_<FIELD>_FILE."""

    sequencer_target: Target
    """gRPC target of sequencer_svc; a comma list of IP:port is allowed."""

    presence_target: Target
    """gRPC target of presence_svc; a comma list of IP:port is allowed."""

    sync_target: Target
    """gRPC target of sync_svc; a comma list of IP:port is allowed."""

    push_target: Target
    """gRPC target of push_svc; a comma list of IP:port is allowed."""

    hint_key: SecretStr
    """Secret of the hints' digests, 16 characters or more, the same for all chat nodes and known to
    them alone. Make one with: openssl rand -hex 32."""

    node_name: str = ""
    """Name of this node for operators; empty: host name and public address."""

    node_target: str = ""
    """gRPC target under which the other servers reach this node's mesh listener; empty: the address
    it listens on. Needed when that is 0.0.0.0."""

    reach: Literal["tenant", "contacts"] = "tenant"
    """tenant: anyone in the tenant may write to anyone, which makes the two contacts.
    contacts: only contacts may."""

    unknown_recipients: Literal["auto", "refuse", "make"] = "auto"
    """What happens to messages for users who never signed in: refuse them, or make their account.
    auto: make in an embedded mesh, refuse elsewhere."""

    audit_keep_days: int = Field(default=0, ge=0, le=36_500)
    """Days that records of the audit log are kept, 30 or more; 0 = for ever. Less than 30 counts
    as 30."""

    rebalance_age_seconds: int = Field(default=120, ge=0, le=86_400)
    """Sessions older than this may be asked to move when this node holds clearly more than its
    share of all sessions, so that new nodes get theirs; 0 = never."""

    search_language: str = Field(default="simple", pattern=r"^[a-z][a-z_]{0,62}$")
    """Text search configuration of PostgreSQL that splits messages and searches into words, the
    same for all chat nodes: `simple` takes words as they are, `english` and others their stems.
    When it is changed, the index is made anew in the background."""

    fill_readers: int = Field(default=4, ge=1, le=64)
    """Timeline reads at a time, over all sessions: a storm of reconnects takes turns."""

    postgres_pool: int = Field(default=8, ge=2, le=100)
    """Most PostgreSQL connections for sessions, and as many for unary calls, beside the two of
    the commit."""

    limit_max_content_bytes: int = _limit("max_content_bytes")
    limit_max_send_batch: int = _limit("max_send_batch")
    limit_max_sends_in_flight: int = _limit("max_sends_in_flight")
    limit_window_entries: int = _limit("window_entries")
    limit_window_bytes: int = _limit("window_bytes")
    limit_frames_per_second: int = _limit("frames_per_second")
    limit_frames_burst: int = _limit("frames_burst")
    limit_max_frame_bytes: int = _limit("max_frame_bytes")
    limit_max_group_members: int = _limit("max_group_members")
    limit_max_devices: int = _limit("max_devices")
    limit_idle_timeout_seconds: int = _limit("idle_timeout_seconds")
    limit_ack_timeout_seconds: int = _limit("ack_timeout_seconds")
    limit_edit_window_seconds: int = _limit("edit_window_seconds")
    limit_key_age_days: int = _limit("key_age_days")
    limit_key_ahead_seconds: int = _limit("key_ahead_seconds")
    limit_max_watched_users: int = _limit("max_watched_users")
    limit_watched_contacts: int = _limit("watched_contacts")
    limit_presence_per_second: int = _limit("presence_per_second")
    limit_away_seconds: int = _limit("away_seconds")
    limit_hello_timeout_seconds: int = _limit("hello_timeout_seconds")
    limit_max_metadata_pairs: int = _limit("max_metadata_pairs")
    limit_max_metadata_bytes: int = _limit("max_metadata_bytes")
    limit_max_mentions: int = _limit("max_mentions")
    limit_max_attachments: int = _limit("max_attachments")
    limit_max_text_code_points: int = _limit("max_text_code_points")
    limit_max_reactions: int = _limit("max_reactions")
    limit_retention_days: int = _limit("retention_days")
    limit_retention_entries: int = _limit("retention_entries")
    limit_commit_rows: int = _limit("commit_rows")
    limit_outbox_rows: int = _limit("outbox_rows")
    limit_sessions_per_node: int = _limit("sessions_per_node")

    @field_validator("node_target")
    @classmethod
    def _node_target(cls, target: str) -> str:
        return check_target(target) if target else target

    @field_validator("hint_key")
    @classmethod
    def _hint_key(cls, key: SecretStr) -> SecretStr:
        if len(key.get_secret_value()) < MIN_HINT_KEY_CHARACTERS:
            raise ValueError(f"has fewer than {MIN_HINT_KEY_CHARACTERS} characters")
        return key

    @rule("postgres_url")
    def _database(self) -> None:
        if self.postgres_url is None:
            raise ValueError("CHATMESH_POSTGRES_URL is not set: messages are kept in PostgreSQL")

    @rule("node_target", "mesh_listen")
    def _can_be_called(self) -> None:
        if not self.node_target and self.mesh_listen.startswith(_ANY_ADDRESS):
            raise ValueError(
                f"CHATMESH_MESH_LISTEN={self.mesh_listen!r} is no address that others can call: "
                "set CHATMESH_NODE_TARGET to this node's own address and mesh port"
            )

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return Limits(
            **{name: getattr(self, f"limit_{name}") for name in Limits.__dataclass_fields__}
        )

    @property
    def makes_unknown_recipients(self) -> bool:
        """Whether a message to somebody unknown makes their account."""
        if self.unknown_recipients == "auto":
            return self.embedded
        return self.unknown_recipients == "make"

    @property
    def hint_digest_key(self) -> bytes:
        """32 bytes from the secret, however long its text is."""
        return hashlib.blake2s(self.hint_key.get_secret_value().encode()).digest()

    @property
    def name(self) -> str:
        """Name of this node for operators."""
        return self.node_name or f"{socket.gethostname()}/{self.public_listen}"

    def target_at(self, bound: str) -> str:
        """The target to tell others, once the mesh listener is bound to ``bound``."""
        return self.node_target or bound

    @property
    def is_local_only(self) -> bool:
        """Whether nobody outside this machine can reach the public listener."""
        return is_local(self.public_listen)
