"""Events of the SDK to what ``chatmesh.fold`` needs of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from chatmesh import fold
from chatmesh.client import _content as c
from chatmesh.client import _values as v

Reading = fold.Reading[c.Content]


def reads_now(events: Iterable[v.Event], now_ms: int = 0) -> list[Reading]:
    """How the messages among events of one conversation read now, by conversation_seq, rising.

    Args:
        events: of history pages and of entries, in any order, repeated or not.
        now_ms: the server's time, ms since the Unix epoch; messages that are over by then read as
            erased. 0: expiry is not looked at.
    """
    return fold.reads_now((_said(event) for event in events), now_ms)


def _said(event: v.Event) -> fold.Said[c.Content]:
    seq, sender = event.conversation_seq, event.sender
    match event.content:
        case c.Edit(target, body):
            return fold.Said(seq, fold.Effect.EDIT, sender, body, target)
        case c.Delete(target):
            return fold.Said(seq, fold.Effect.DELETE, sender, target=target)
        case c.Reaction(target, reaction, removed):
            return fold.Said(seq, fold.Effect.REACTION, sender, None, target, reaction, removed)
        case c.Pin(target, removed):
            return fold.Said(seq, fold.Effect.PIN, sender, target=target, removed=removed)
        case content if event.message_no:
            return fold.Said(
                seq, fold.Effect.MESSAGE, sender, content, expires_at_ms=event.expires_at_ms
            )
        case _:
            return fold.Said(seq, fold.Effect.NONE, sender)
