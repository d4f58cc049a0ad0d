"""What counts as unread: a table. docs/unread.md is its page for people.

A conversation's unread is the number of its events after the member's read mark that count; a
user's unread is the sum over their conversations that count. The store says the same in SQL, and a
test compares the two on every row of the table.

Pure.
"""

from dataclasses import dataclass
from typing import Final

EXACT_UP_TO: Final = 1_000
"""Messages. A backlog up to here is counted event by event; a longer one is told as
last_message_no - read_message_no, an upper bound that costs nothing."""


@dataclass(frozen=True, slots=True)
class UnreadRule:
    """One row: a kind of event or conversation, and whether it counts."""

    what: str
    in_conversation: bool
    in_total: bool
    why: str


RULES: Final = (
    UnreadRule("message", True, True, "somebody said something"),
    UnreadRule("silent message", True, True, "silent is about noise, not about reading"),
    UnreadRule("own message", False, False, "its writer knows it, on every device"),
    UnreadRule("erased message", False, False, "there is nothing left to read"),
    UnreadRule("expired message", False, False, "reads as erased"),
    UnreadRule("hidden message", False, False, "its reader deleted it for themselves"),
    UnreadRule("edited message", True, True, "still one message; the edit adds none"),
    UnreadRule("edit, delete, reaction, pin", False, False, "says nothing new to read"),
    UnreadRule("membership, title", False, False, "shown in the log, not owed to the reader"),
    UnreadRule("before joining", False, False, "the mark of a new member starts at the head"),
    UnreadRule(
        "of a blocked sender",
        False,
        False,
        "whom one blocks does not call for attention, in a group or alone",
    ),
    UnreadRule("in a muted conversation", True, True, "mute is about noise"),
    UnreadRule("in an archived conversation", True, False, "archived is out of sight"),
    UnreadRule("in a group that was left", False, False, "not the reader's any more"),
)
