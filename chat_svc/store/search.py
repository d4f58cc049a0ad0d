"""Search: its index, filled behind the commit in bounded steps, and the reads over it.

The index says where words may be. Whether the caller may see the message, and whether it still says
them, is read from the events. The rules are in `migrations/pre/0061-search.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chat_svc.core.searching import START, STOP, check_understood, without_marks
from chat_svc.store import calls
from chat_svc.store.history import EventRow
from chatmesh.runtime.postgres import Database

MORE_CANDIDATES: Final = 100
"""Messages looked at beside two for each that is asked for: a page is a bounded read, and says
where the next one begins even if the caller may see none of them."""

_INDEX: Final = "SELECT * FROM chat.index_search_1(%s::bigint[], %s::integer, %s)"
_SWEEP: Final = "SELECT * FROM chat.sweep_search_1(%s::integer, %s, %s::bigint)"
_TREE: Final = "SELECT querytree(websearch_to_tsquery(%s::regconfig, %s))"
_SEARCH: Final = """
WITH hit AS MATERIALIZED (
  SELECT s.conversation, s.conversation_seq, s.created_at_ms
  FROM chat.search_entry s
  WHERE s.conversation = ANY (ARRAY(SELECT m.conversation FROM chat.member m
      WHERE m.account = %(account)s
        AND (%(conversation)s::bigint = 0 OR m.conversation = %(conversation)s)))
    AND s.words @@ websearch_to_tsquery(%(language)s::text::regconfig, %(query)s)
    AND (s.created_at_ms, s.conversation, s.conversation_seq)
      < (%(before_ms)s::bigint, %(before_conversation)s::bigint, %(before_seq)s::bigint)
  ORDER BY s.created_at_ms DESC, s.conversation DESC, s.conversation_seq DESC
  LIMIT %(candidates)s
)
SELECT h.created_at_ms, h.conversation, h.conversation_seq,
  e.message_no, e.id, e.sender, coalesce(a.external_id, ''), e.kind, e.body, c.kind,
  coalesce(l.external_id, ''), coalesce(g.external_id, ''), e.text
FROM hit h
JOIN chat.conversation c ON c.id = h.conversation
LEFT JOIN LATERAL (
  SELECT e.*, chat.search_text_1(e.body) AS text FROM chat.event e
  WHERE e.conversation = h.conversation AND e.conversation_seq = h.conversation_seq
    AND e.flags & 9 = 1 AND e.expires_at_ms NOT BETWEEN 1 AND chat.now_ms()
    AND chat.may_read_1(%(account)s, h.conversation, h.conversation_seq)
    AND NOT chat.is_hidden_1(%(account)s, h.conversation, h.conversation_seq)
    AND chat.may_read_1(%(account)s, h.conversation, coalesce(
      (SELECT max(x.conversation_seq) FROM chat.event x WHERE x.conversation = h.conversation
        AND x.kind = 3 AND x.target_seq = h.conversation_seq), h.conversation_seq))
    AND chat.search_words_1(%(language)s::text, chat.search_text_1(e.body))
      @@ websearch_to_tsquery(%(language)s::text::regconfig, %(query)s)
  LIMIT 1
) e ON true
LEFT JOIN chat.account a ON a.id = e.sender
LEFT JOIN chat.account l ON l.id = c.direct_low
LEFT JOIN chat.account g ON g.id = c.direct_high
ORDER BY h.created_at_ms DESC, h.conversation DESC, h.conversation_seq DESC
"""
_HEADLINES: Final = """
SELECT ts_headline(%s::regconfig, t.text, websearch_to_tsquery(%s::regconfig, %s), %s)
FROM unnest(%s::text[]) WITH ORDINALITY t(text, n) ORDER BY t.n
"""
_LOOK: Final = f'StartSel="{START}", StopSel="{STOP}", MaxWords=32, MinWords=12'


@dataclass(frozen=True, slots=True, order=True)
class HitPosition:
    """Where a page of hits ended: newest first."""

    created_at_ms: int
    conversation: int
    conversation_seq: int


NEWEST: Final = HitPosition((1 << 63) - 1, (1 << 63) - 1, (1 << 63) - 1)


@dataclass(frozen=True, slots=True)
class Hit:
    """A message found, as it reads now."""

    message: EventRow
    peers: tuple[str, str]
    """Direct and self: users of the lower and the higher account; groups: two empty texts."""
    highlight: str
    """A piece of its text, what was found between `START` and `STOP`."""


@dataclass(frozen=True, slots=True)
class HitPage:
    """Hits, newest first."""

    hits: list[Hit]
    following: HitPosition | None
    """Where the next page begins; None: this was the last."""


@dataclass(frozen=True, slots=True)
class IndexStep:
    """What one step of the index did."""

    events: int
    behind: list[int]
    """Of the conversations asked for, those that are not at their end yet."""
    is_busy: bool
    """Another node steps; nothing was done."""


@dataclass(frozen=True, slots=True)
class SweepStep:
    """What one step of the sweep found."""

    behind: list[int]
    oldest_ms: int
    """When the oldest event that waits was committed: ms since the Unix epoch; 0 = none waits."""
    removed: int
    is_over: bool
    """The pass has ended, another node steps, or the next pass is not due."""


class SearchStore:
    """The index and its reads."""

    def __init__(self, database: Database, *, language: str = "simple") -> None:
        """`language`: a text search configuration of PostgreSQL."""
        self._database = database
        self._language = language

    async def index(self, conversations: Sequence[int], *, max_events: int) -> IndexStep:
        """Look at new events of conversations, about `max_events` at most."""
        values = (list(conversations), max_events, self._language)
        found = await calls.row(self._database, _INDEX, values)
        return IndexStep(*found) if found else IndexStep(0, [], True)

    async def sweep(self, *, max_rows: int, period_ms: int) -> SweepStep:
        """One step of a pass over all conversations and over the index."""
        found = await calls.row(self._database, _SWEEP, (max_rows, self._language, period_ms))
        return SweepStep(*found) if found else SweepStep([], 0, 0, True)

    async def search(
        self,
        account: int,
        query: str,
        *,
        conversation: int = 0,
        before: HitPosition = NEWEST,
        limit: int,
    ) -> HitPage:
        """Messages of the account's conversations that it may see and that say this.

        Args:
            query: passed `searching.check_query`.
            conversation: only this one; 0 = all of the account's.

        Raises:
            Fault: QUERY_INVALID.
        """
        tree = await calls.row(self._database, _TREE, (self._language, query))
        check_understood(tree[0] if tree else "")
        candidates = 2 * limit + MORE_CANDIDATES
        found = await calls.rows(
            self._database,
            _SEARCH,
            {
                "account": account, "conversation": conversation, "query": query,
                "language": self._language, "candidates": candidates,
                "before_ms": before.created_at_ms, "before_conversation": before.conversation,
                "before_seq": before.conversation_seq,
            },
        )  # fmt: skip
        seen = [columns for columns in found if columns[4] is not None]
        texts = [without_marks(columns[12]) for columns in seen[:limit]]
        highlights = await self._highlights(query, texts)
        hits = [
            Hit(_event(columns), (columns[10], columns[11]), highlight)
            for columns, highlight in zip(seen[:limit], highlights, strict=True)
        ]
        following = None
        if len(seen) > limit:
            following = HitPosition(*seen[limit - 1][:3])
        elif len(found) == candidates:
            following = HitPosition(*found[-1][:3])
        return HitPage(hits, following)

    async def _highlights(self, query: str, texts: list[str]) -> list[str]:
        if not texts:
            return []
        values = (self._language, self._language, query, _LOOK, texts)
        return [text for (text,) in await calls.rows(self._database, _HEADLINES, values)]


def _event(columns: calls.Row) -> EventRow:
    created_at_ms, conversation, seq, message_no, number, sender, user, kind, body, what = columns[
        :10
    ]
    return EventRow(
        conversation, seq, message_no, number, sender, user, created_at_ms, kind, body, what
    )
