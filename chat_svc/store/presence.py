"""Lasting presence of users, and who of some accounts is a contact of whom.

The truth of wishes: presence_svc keeps them in Redis, which may be lost whole; a node tells them
again with each attachment. Whether a session sees somebody is decided in `core.visibility`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from chat_svc.store import calls
from chatmesh.runtime.postgres import Database, Int2Array, Int8Array, TextArray

Pair = tuple[int, int]
"""(one account, the other)."""


@dataclass(frozen=True, slots=True)
class WishChange:
    """What a user chose just now. `state` 0 and `text` None leave what was chosen before."""

    account: int
    state: int = 0
    text: str | None = None
    until_ms: int = 0
    """End of the text: Unix ms, 0 = never."""

    def after(self, before: WishChange | None) -> WishChange:
        """Both as one."""
        if before is None:
            return self
        told = before if self.text is None else self
        return WishChange(self.account, self.state or before.state, told.text, told.until_ms)


@dataclass(frozen=True, slots=True)
class WishRow:
    """What a user is to be until they choose anew; a text that has ended is empty."""

    account: int
    state: int
    text: str
    until_ms: int
    wish_no: int


_WRITE: Final = """
INSERT INTO chat.presence_wish AS w (account, state, status_text, status_until_ms, wish_no)
SELECT t.account, CASE WHEN t.state = 0 THEN 3 ELSE t.state END, t.text, t.until_ms,
  (extract(epoch FROM clock_timestamp()) * 1000)::bigint
FROM unnest(%(account)s, %(state)s, %(text)s, %(until)s) AS t (account, state, text, until_ms)
ORDER BY t.account
ON CONFLICT (account) DO UPDATE SET
  wish_no = greatest(w.wish_no + 1, excluded.wish_no),
  state = CASE WHEN %(kept)s @> ARRAY[w.account] THEN w.state ELSE excluded.state END,
  status_text =
    CASE WHEN %(silent)s @> ARRAY[w.account] THEN w.status_text ELSE excluded.status_text END,
  status_until_ms =
    CASE WHEN %(silent)s @> ARRAY[w.account] THEN w.status_until_ms ELSE excluded.status_until_ms
    END
"""
_READ: Final = """
SELECT account, state,
  CASE WHEN ended THEN '' ELSE status_text END, CASE WHEN ended THEN 0 ELSE status_until_ms END,
  wish_no
FROM chat.presence_wish CROSS JOIN LATERAL (
  SELECT status_until_ms > 0 AND status_until_ms <= extract(epoch FROM now()) * 1000 AS ended
) e
WHERE account = ANY (%s)
"""
_CONTACT_PAIRS: Final = """
SELECT c.owner, c.other
FROM unnest(%(owner)s, %(other)s) AS p (owner, other)
JOIN chat.contact c ON c.owner = p.owner AND c.other = p.other AND c.state = 3
JOIN chat.contact r ON r.owner = p.other AND r.other = p.owner AND r.state = 3
WHERE NOT EXISTS (
  SELECT FROM chat.block b WHERE b.owner = p.owner AND b.blocked = p.other
    OR b.owner = p.other AND b.blocked = p.owner)
"""
_CONTACTS_OF: Final = """
SELECT o.owner, l.other
FROM unnest(%(owner)s) AS o (owner) CROSS JOIN LATERAL (
  SELECT c.other
  FROM chat.contact c JOIN chat.contact r ON r.owner = c.other AND r.other = c.owner
  WHERE c.owner = o.owner AND c.state = 3 AND r.state = 3 AND NOT EXISTS (
    SELECT FROM chat.block b WHERE b.owner = c.owner AND b.blocked = c.other
      OR b.owner = c.other AND b.blocked = c.owner)
  ORDER BY c.other LIMIT %(most)s
) l
"""
_SHARED: Final = """
SELECT DISTINCT other.account
FROM chat.member mine
JOIN chat.member other ON other.conversation = mine.conversation AND NOT other.gone
WHERE mine.account = %(viewer)s AND NOT mine.gone AND other.account = ANY (%(others)s)
"""


class PresenceStore:
    """Statements on wishes and contacts, each of many accounts at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write_wishes(self, changes: Sequence[WishChange]) -> None:
        """Take in what users chose; at most one change per account. Repeats do no harm."""
        values = {
            "account": Int8Array([change.account for change in changes]),
            "state": Int2Array([change.state for change in changes]),
            "text": TextArray([change.text or "" for change in changes]),
            "until": Int8Array([change.until_ms for change in changes]),
            "kept": Int8Array([change.account for change in changes if not change.state]),
            "silent": Int8Array([change.account for change in changes if change.text is None]),
        }
        await calls.change(self._database, _WRITE, values)

    async def wishes_of(self, accounts: Iterable[int]) -> dict[int, WishRow]:
        """Wishes of those that ever chose."""
        found = await calls.rows(self._database, _READ, (Int8Array(list(accounts)),))
        return {columns[0]: WishRow(*columns) for columns in found}

    async def contacts_of(self, accounts: Sequence[int], most: int) -> dict[int, list[int]]:
        """Mutually accepted contacts per account, without blocks either way; `most` of each."""
        contacts: dict[int, list[int]] = {account: [] for account in accounts}
        values = {"owner": Int8Array(accounts), "most": most}
        for owner, other in await calls.rows(self._database, _CONTACTS_OF, values):
            contacts[owner].append(other)
        return contacts

    async def contact_pairs(self, pairs: Sequence[Pair]) -> set[Pair]:
        """Those pairs that are contacts of each other, neither blocking the other."""
        if not pairs:
            return set()
        values = {
            "owner": Int8Array([one for one, _ in pairs]),
            "other": Int8Array([other for _, other in pairs]),
        }
        return set(await calls.rows(self._database, _CONTACT_PAIRS, values))

    async def sharing(self, viewer: int, others: Sequence[int]) -> set[int]:
        """Those of `others` who are in a conversation with the viewer now."""
        values = {"viewer": viewer, "others": Int8Array(others)}
        return {account for (account,) in await calls.rows(self._database, _SHARED, values)}
