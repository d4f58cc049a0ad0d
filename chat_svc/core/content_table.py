"""What each kind of content does: a table. docs/content.md is its page for people.

A kind without a row is not built. A test says each of these things, and looks at what a reader is
shown, counts, is pushed and finds.

Pure.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ContentRule:
    """One row. The last three: for a reader who did not write it, once it has been said."""

    what: str
    """A kind of ``Content``, or what a message carries beside its content."""
    who: str
    reads: str
    unread: bool
    push: bool
    search: bool


_MEMBER: Final = "a member"

RULES: Final = (
    ContentRule("text", _MEMBER, "a message", True, True, True),
    ContentRule("data", _MEMBER, "a message; the server never looks inside", True, True, False),
    ContentRule(
        "edit", "its writer, within the edit window", "the message says the new body",
        False, False, True,
    ),
    ContentRule(
        "delete", "its writer; admins and owners of a group", "the message is erased, for ever",
        False, False, False,
    ),
    ContentRule(
        "reaction", _MEMBER, "one per user and reaction, set or taken back", False, False, False
    ),
    ContentRule(
        "pin", _MEMBER, "pinned for all members, or no longer", False, False, False
    ),
    ContentRule(
        "membership", "the server, for ChangeMembers", "a line between messages",
        False, False, False,
    ),
    ContentRule(
        "conversation", "the server, for CreateConversation and UpdateConversation",
        "a line between messages", False, False, False,
    ),
    ContentRule(
        "account", "the server, to the account alone", "nothing; devices ask for what changed",
        False, False, False,
    ),
    ContentRule(
        "encrypted", _MEMBER, "as its kind; the server offers nothing that needs the text",
        True, True, False,
    ),
    ContentRule(
        "attachments", _MEMBER, "beside the message: URI, type, size, SHA-256", True, True, True
    ),
    ContentRule("reply", _MEMBER, "beside what it answers", True, True, True),
    ContentRule("thread", _MEMBER, "in the conversation, and in its thread", True, True, True),
    ContentRule(
        "mention", "a member, of members", "a message that counts as a mention", True, True, True
    ),
    ContentRule(
        "forward", _MEMBER, "a message; its origin is what the forwarder says", True, True, True
    ),
    ContentRule("silent", _MEMBER, "a message", True, False, True),
    ContentRule(
        "disappearing", _MEMBER, "erased from its moment on", False, False, False
    ),
    ContentRule(
        "delete for me", "its reader (HideMessage)", "gone on the reader's devices, for ever",
        False, False, False,
    ),
)  # fmt: skip
