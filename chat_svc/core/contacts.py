"""Where two users stand, and what an action makes of it: one table.

The blocked are never told: what they do goes on to look as it would towards somebody who does not
answer. As in `core.membership`, the store compares the state under its locks.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from chatmesh import errors


class Line(IntEnum):
    """One side's line about the other; `chatmesh.v1.ContactState` numbers without BLOCKED."""

    NONE = 0
    REQUESTED = 1
    INCOMING = 2
    ACCEPTED = 3


class ContactAction(IntEnum):
    """`chatmesh.v1.UpdateContactRequest.Action` numbers."""

    REQUEST = 1
    ACCEPT = 2
    DECLINE = 3
    REMOVE = 4
    BLOCK = 5
    UNBLOCK = 6


@dataclass(frozen=True, slots=True)
class Standing:
    """Both lines, and both blocks."""

    mine: Line = Line.NONE
    theirs: Line = Line.NONE
    i_block: bool = False
    they_block: bool = False


@dataclass(frozen=True, slots=True)
class ContactDecision:
    """The standing after, and what each side's account event says; empty = no event."""

    after: Standing
    mine_subject: str = ""
    mine_state: str = ""
    theirs_state: str = ""
    """Of subject `contacts`, in the other's own log."""


def decide(action: ContactAction, now: Standing) -> ContactDecision:
    """What the caller's action does.

    | action | when | mine | theirs | the other is told |
    | --- | --- | --- | --- | --- |
    | request | they asked, or hold me as a contact | accepted | accepted | accepted |
    | request | they block me | requested | as it was | no |
    | request | else | requested | incoming | incoming |
    | accept | they asked | accepted | accepted | accepted |
    | decline | they asked | none | as it was | no |
    | remove | we are contacts, or I asked | none | none | removed |
    | remove | they asked | none | as it was | no |
    | block | always | none | none if incoming | no |
    | unblock | I block | as it was | as it was | no |

    Raises:
        Fault: NOT_FOUND (nothing to accept or decline), NOT_REACHABLE (request to one I block).
    """
    if action is ContactAction.REQUEST:
        return _request(now)
    if action in (ContactAction.ACCEPT, ContactAction.DECLINE):
        if now.mine is not Line.INCOMING:
            raise errors.NOT_FOUND("there is nothing to answer")
        if action is ContactAction.ACCEPT:
            return _accepted(now)
        return _mine_only(now, Line.NONE, "declined")
    if action is ContactAction.REMOVE:
        return _remove(now)
    if action is ContactAction.BLOCK:
        return _block(now)
    if not now.i_block:
        return ContactDecision(now)
    after = Standing(now.mine, now.theirs, False, now.they_block)
    return ContactDecision(after, "blocks", "unblocked")


def _request(now: Standing) -> ContactDecision:
    if now.i_block:
        raise errors.NOT_REACHABLE()
    if now.mine in (Line.REQUESTED, Line.ACCEPTED):
        return ContactDecision(now)
    if now.they_block:
        return _mine_only(now, Line.REQUESTED, "requested")
    if now.theirs in (Line.REQUESTED, Line.ACCEPTED):
        return _accepted(now)
    after = Standing(Line.REQUESTED, Line.INCOMING)
    told = "" if now.theirs is Line.INCOMING else "incoming"
    return ContactDecision(after, "contacts", "requested", told)


def _accepted(now: Standing) -> ContactDecision:
    if now.they_block:
        return _mine_only(now, Line.ACCEPTED, "accepted")
    after = Standing(Line.ACCEPTED, Line.ACCEPTED, now.i_block, now.they_block)
    told = "" if now.theirs is Line.ACCEPTED else "accepted"
    return ContactDecision(after, "contacts", "accepted", told)


def _remove(now: Standing) -> ContactDecision:
    if now.mine is Line.NONE:
        return ContactDecision(now)
    if now.mine is Line.INCOMING or now.they_block or now.theirs is Line.NONE:
        return _mine_only(now, Line.NONE, "removed")
    after = Standing(Line.NONE, Line.NONE, now.i_block, now.they_block)
    return ContactDecision(after, "contacts", "removed", "removed")


def _block(now: Standing) -> ContactDecision:
    if now.i_block:
        return ContactDecision(now)
    theirs = Line.NONE if now.theirs is Line.INCOMING else now.theirs
    return ContactDecision(Standing(Line.NONE, theirs, True, now.they_block), "blocks", "blocked")


def _mine_only(now: Standing, line: Line, state: str) -> ContactDecision:
    after = Standing(line, now.theirs, now.i_block, now.they_block)
    return ContactDecision(after, "contacts", state)
