"""Reads tests/bad_input.toml. A row with a word that nobody reads is an error, not a comment."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from chatmesh import errors

FILE = Path(__file__).parents[1] / "bad_input.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of any kind."""

    input: str
    status: str = ""
    reason: str = ""
    token: str = ""
    frames: list[str] = field(default_factory=list)
    repeat: int = 1
    """How often the last frame is sent, or the message stands in its batch."""
    half_close: bool = False
    again: bool = False
    """Another session of the same device opens meanwhile."""
    then_ack_backwards: bool = False
    closed: str = "REASON_PROTOCOL_ERROR"
    no_closed: bool = False
    message: str = ""
    method: str = ""
    request: str = ""
    scope: str = ""
    """Scopes of the caller's token, which is then a back end's."""
    on_behalf_of: str = ""
    """User that the call is for."""
    tenant: str = ""
    """Tenant of the caller's token; empty = as everybody's."""


def rows(kind: str) -> list[Row]:
    """The rows of one kind."""
    return [Row(**raw) for raw in _content()[kind]]


def _content() -> dict[str, list[dict[str, Any]]]:
    with FILE.open("rb") as file:
        return tomllib.load(file)


def problems() -> list[str]:
    """What is wrong with the table itself: statuses and reasons that the contract does not know."""
    found = []
    for kind, listed in _content().items():
        names = [raw["input"] for raw in listed]
        found += [f"{kind}: {name} twice" for name in set(names) if names.count(name) > 1]
        if kind in ("start", "harmless"):
            continue
        for row in rows(kind):
            if row.reason and row.reason not in errors.BY_REASON:
                found.append(f"{kind}: {row.input}: no reason {row.reason}")
            elif row.reason and errors.BY_REASON[row.reason].code.name != row.status:
                found.append(f"{kind}: {row.input}: {row.reason} is not {row.status}")
            elif row.status not in grpc.StatusCode.__members__:
                found.append(f"{kind}: {row.input}: no status {row.status}")
    return found
