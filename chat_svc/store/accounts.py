"""Accounts, their tenants, and who knows or blocks whom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatmesh.runtime.postgres import Database

NewIds = Callable[[int], Awaitable[list[int]]]
"""Gives that many Snowflake ids."""


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as the mesh knows it."""

    id: int
    tenant_id: int
    kind: int
    """`chatmesh.v1.SenderKind` number."""
    disabled: bool


class ContactState(IntEnum):
    """Where two accounts stand, seen from the owner: `chatmesh.v1.ContactState` numbers."""

    NONE = 0
    REQUESTED = 1
    INCOMING = 2
    ACCEPTED = 3
    BLOCKED = 4


@dataclass(frozen=True, slots=True)
class ContactRow:
    """One line of the owner's list."""

    account: int
    user_id: str
    state: ContactState
    changed_at_ms: int


@dataclass(frozen=True, slots=True)
class Privacy:
    """`chatmesh.v1.Audience` numbers, each 1 (nobody) or 2 (contacts)."""

    presence: int
    last_seen: int
    typing: int
    read_receipts: int


@dataclass(frozen=True, slots=True)
class NotificationSettings:
    """Account-wide loudness. Minutes of the local day; equal = no quiet hours."""

    mute: int
    quiet_start_minute: int
    quiet_end_minute: int
    time_zone: str


class AccountStore:
    """Reads and writes of account, contact, block."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def resolve_accounts(
        self, tenant: str, users: Sequence[str], make: bool, new_ids: NewIds
    ) -> dict[str, AccountRow]:
        """Accounts by user id; absent from the answer: unknown (and `make` is False).

        An account is made with its timeline head, its self conversation and, if need be, its
        tenant, in one transaction. `make` is for the caller's own account (a valid token is proof
        enough) and for deployments where unknown recipients are made.
        """
        raise NotImplementedError

    async def users_of(self, accounts: Sequence[int]) -> dict[int, str]:
        """User ids by account, for entries and receipts of conversations already authorised."""
        raise NotImplementedError

    async def accounts_by_id(self, accounts: Sequence[int]) -> dict[int, tuple[AccountRow, str]]:
        """Rows and user ids by account."""
        raise NotImplementedError

    async def contacts_of(self, accounts: Sequence[int]) -> dict[int, list[int]]:
        """Accepted contacts per account, blocked ones left out: whom presence may be shown to."""
        raise NotImplementedError

    async def list_contacts(
        self, owner: int, *, state: ContactState, after_user: str, limit: int
    ) -> list[ContactRow]:
        """A page by user id. `state` NONE: all but blocked."""
        raise NotImplementedError

    async def contact(self, owner: int, other: int) -> ContactRow | None:
        """One line."""
        raise NotImplementedError

    async def blocked_by(self, owner: int) -> set[int]:
        """Whom this account blocks."""
        raise NotImplementedError

    async def privacy(self, accounts: Sequence[int]) -> dict[int, Privacy]:
        """Privacy per account."""
        raise NotImplementedError

    async def set_privacy(self, owner: int, privacy: Privacy) -> Privacy:
        """Write; fields that are 0 stay. Raises account_version. Answers what holds now."""
        raise NotImplementedError

    async def notification_settings(self, owner: int) -> NotificationSettings:
        """Account-wide loudness."""
        raise NotImplementedError

    async def set_notification_settings(
        self, owner: int, settings: NotificationSettings
    ) -> NotificationSettings:
        """Write all of it. Raises account_version."""
        raise NotImplementedError
