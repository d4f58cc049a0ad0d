"""Checks of what was shown of people, and of ids that were given.

    I9   who is shown online was there: between a session's begin and its end plus one lease; and
         after everything healed, each watcher was shown last what is true
    I10  no id is given twice, and each says its time to within five seconds

Rules: pure. Times are milliseconds of one clock, that of whoever recorded. A record may be later
than what it records (the reader was slow), never earlier: `slack_ms` is for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chatmesh.ids import DEFAULT_LAYOUT, SnowflakeLayout

ID_TOLERANCE_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Stay:
    """A session of a user: from its first frame to its end; `until_ms` None = it still lives."""

    user: str
    from_ms: int
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A watcher was shown that a user is online (away and do-not-disturb included), or is not."""

    watcher: str
    user: str
    online: bool
    at_ms: int


@dataclass(frozen=True, slots=True)
class GivenId:
    """An id, and when its receiver had it."""

    message_id: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Wrong:
    """What breaks an invariant."""

    invariant: str
    text: str
    claim: Claim | None = None
    """What was shown wrongly."""


def online_was_true(
    stays: Iterable[Stay], claims: Iterable[Claim], *, lease_ms: int, slack_ms: int = 0
) -> Iterator[Wrong]:
    """I9: each online claim lies within a stay, or at most a lease (and the slack) after it."""
    known: dict[str, list[Stay]] = {}
    for stay in stays:
        known.setdefault(stay.user, []).append(stay)
    for claim in claims:
        if claim.online and not any(
            stay.from_ms <= claim.at_ms
            and (stay.until_ms is None or claim.at_ms <= stay.until_ms + lease_ms + slack_ms)
            for stay in known.get(claim.user, ())
        ):
            yield Wrong(
                "I9",
                f"{claim.watcher} was shown {claim.user} online at {claim.at_ms}, who had no "
                "session then",
                claim,
            )


def converged(
    stays: Iterable[Stay], claims: Sequence[Claim], hidden: Iterable[tuple[str, str]] = ()
) -> Iterator[Wrong]:
    """I9 after everything healed: the newest claim of each watcher is what is true.

    `hidden`: (watcher, user) who is shown offline whatever is true: strangers, blocked, invisible.
    """
    there = {stay.user for stay in stays if stay.until_ms is None}
    unseen = set(hidden)
    newest: dict[tuple[str, str], Claim] = {}
    for claim in sorted(claims, key=lambda claim: claim.at_ms):
        newest[claim.watcher, claim.user] = claim
    for (watcher, user), claim in newest.items():
        true = user in there and (watcher, user) not in unseen
        if claim.online != true:
            shown, is_so = (("online", "offline"), ("offline", "online"))[not claim.online]
            yield Wrong("I9", f"{watcher} is still shown {user} {shown}, who is {is_so}", claim)


def ids_are_distinct(given: Iterable[GivenId]) -> Iterator[Wrong]:
    """I10: no id twice."""
    seen: set[int] = set()
    for one in given:
        if one.message_id in seen:
            yield Wrong("I10", f"the id {one.message_id} was given twice")
        seen.add(one.message_id)


def ids_tell_their_time(
    given: Iterable[GivenId],
    *,
    layout: SnowflakeLayout = DEFAULT_LAYOUT,
    tolerance_ms: int = ID_TOLERANCE_MS,
) -> Iterator[Wrong]:
    """I10: an id's time is that at which it was had, to within the tolerance."""
    for one in given:
        off_ms = layout.decode(one.message_id).created_at_ms - one.at_ms
        if abs(off_ms) > tolerance_ms:
            yield Wrong("I10", f"the id {one.message_id} says a time that is {off_ms} ms off")


def ids_rise_per_worker(
    given: Mapping[str, Sequence[int]], *, layout: SnowflakeLayout = DEFAULT_LAYOUT
) -> Iterator[Wrong]:
    """I10, the order: what one caller was given of one worker rises."""
    for caller, ids in given.items():
        last: dict[int, int] = {}
        for one in ids:
            worker = layout.decode(one).worker
            if one <= last.get(worker, -1):
                yield Wrong("I10", f"{caller} was given {one} after {last[worker]}")
            last[worker] = one
