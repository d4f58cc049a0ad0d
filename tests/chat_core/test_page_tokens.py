"""Page tokens: for one caller and one query, whole, and for a day."""

from __future__ import annotations

import base64

import pytest

from chat_svc.core.page_tokens import MAX_AGE_MINUTES, SKEW_MINUTES, PageTokens
from chatmesh import errors
from chatmesh.runtime.faults import Fault

KEY = b"k" * 32
NOW_MS = 1_795_000_000_000
MINUTE_MS = 60_000


def at(minutes: int, key: bytes = KEY) -> PageTokens:
    """Tokens of a node whose clock stands so many minutes after the moment of the test."""
    return PageTokens(key, lambda: NOW_MS + minutes * MINUTE_MS)


def refused(tokens: PageTokens, account: int, query: bytes, token: str) -> None:
    with pytest.raises(Fault) as raised:
        tokens.open(account, query, token)
    assert raised.value.reason == errors.PAGE_TOKEN_INVALID.reason


def test_a_token_opens_on_any_node_for_a_day() -> None:
    token = at(0).seal(7, b"list", b"state")
    for minutes in (-SKEW_MINUTES, 0, 1, MAX_AGE_MINUTES):
        assert at(minutes).open(7, b"list", token) == b"state"
    for minutes in (-SKEW_MINUTES - 1, MAX_AGE_MINUTES + 1):
        refused(at(minutes), 7, b"list", token)


def test_no_token_is_the_first_page() -> None:
    assert at(0).open(7, b"list", "") is None


def test_it_is_worth_nothing_to_others_and_elsewhere() -> None:
    token = at(0).seal(7, b"list", b"state")
    refused(at(0), 8, b"list", token)
    refused(at(0), 7, b"lists", token)
    refused(at(0, b"x" * 32), 7, b"list", token)


def test_a_changed_token_is_refused_wherever_it_was_changed() -> None:
    token = at(0).seal(7, b"list", b"state")
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1
        refused(at(0), 7, b"list", base64.urlsafe_b64encode(changed).rstrip(b"=").decode())
    for junk in ("x", "é", "a" * 2_000, "=" * 8, token[:-1]):
        refused(at(0), 7, b"list", junk)
