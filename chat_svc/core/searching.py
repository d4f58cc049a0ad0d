"""What may be asked of the search, and how a piece of a hit is shown.

Pure. The words are PostgreSQL's (``websearch_to_tsquery``), which takes every text; what can find
nothing, or would find everything, is refused here and after it was understood there.
"""

import re
from typing import Final

from chatmesh import errors

MAX_QUERY_BYTES: Final = 256
START, STOP = "\ue000", "\ue001"
"""Around what was found, in a highlight."""

_CONTROLS: Final = re.compile("[\x00-\x1f\x7f]")
_MARKS: Final = {ord(START): None, ord(STOP): None}


def check_query(query: str) -> str:
    """The query as it is.

    Raises:
        Fault: QUERY_INVALID: empty, too long, with control characters, or with a quotation mark
            that nothing closes.
    """
    size = len(query.encode())
    if size > MAX_QUERY_BYTES:
        raise errors.QUERY_INVALID(f"a search has at most {MAX_QUERY_BYTES} bytes, not {size}")
    if not query.strip():
        raise errors.QUERY_INVALID("a search needs a word")
    if _CONTROLS.search(query):
        raise errors.QUERY_INVALID("a search has no control characters")
    if query.count('"') % 2:
        raise errors.QUERY_INVALID("a quotation mark is not closed")
    return query


def check_understood(tree: str) -> None:
    """After PostgreSQL read it. `tree`: what ``querytree`` makes of it.

    Raises:
        Fault: QUERY_INVALID: no word is left, or only words that are not to be there.
    """
    if not tree:
        raise errors.QUERY_INVALID("a search needs a word; signs and words like `or` are none")
    if tree == "T":
        raise errors.QUERY_INVALID("a search needs a word that is to be there")


def without_marks(text: str) -> str:
    """A text in which nothing looks like a mark of ours."""
    return text.translate(_MARKS)
