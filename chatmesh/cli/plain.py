"""Texts of other people, made harmless for a terminal.

A message may hold escape sequences that move the cursor, recolour or retitle a terminal, or
characters that turn the reading direction around (CVE-2021-42574). They are shown, not obeyed.
"""

from __future__ import annotations

import datetime
import unicodedata

_KEPT = "\t"
_SHOWN_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_JOINERS = "\u200c\u200d"
"""Zero-width (non-)joiner: part of words in Persian and of emoji, and harmless."""


def shown(text: str) -> str:
    """One line that says what the text says, control characters as escapes."""
    return "".join(
        character
        if character in _KEPT
        or character in _JOINERS
        or unicodedata.category(character) not in _SHOWN_CATEGORIES
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def local_time(epoch_ms: int) -> str:
    """A moment in the reader's time zone, to the second."""
    moment = datetime.datetime.fromtimestamp(epoch_ms / 1000, datetime.UTC).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")
