"""What is stored of accounts, nodes and sessions, as values: KEYS.md's forms, parsed. Pure."""

import json
from dataclasses import dataclass, field

from presence_svc.lease import Holding
from presence_svc.merge import Session, State, Wish

FORMAT = 1
_LIVE = 1
_LAPSED = 2


class UnknownFormat(Exception):
    """A value was written by a newer release."""


@dataclass(frozen=True, slots=True)
class Record:
    """An account as stored; sessions on dead nodes included."""

    version: int = 0
    last_seen_ms: int = 0
    sessions: tuple[Session, ...] = ()
    wish: Wish | None = None
    lapsed: bool = False
    """The newest ended session ended with its node's lease."""


@dataclass(frozen=True, slots=True)
class Node:
    """A chat node with a live lease."""

    node_id: int
    target: str
    name: str


@dataclass(frozen=True, slots=True)
class Held:
    """One session as its node holds it, for taking it away."""

    account_id: int
    device_id: str
    session_no: int


@dataclass(frozen=True, slots=True)
class View:
    """One reading of accounts, with the leases of the same moment."""

    generation: int | None
    alive: bool
    warming: bool
    nodes: dict[int, Node] = field(default_factory=dict)
    records: dict[int, Record] = field(default_factory=dict)

    def live_sessions(self, record: Record) -> tuple[Session, ...]:
        """A record's sessions on live nodes."""
        nodes = self.nodes
        return tuple(session for session in record.sessions if session.node_id in nodes)


EMPTY = Record()


def parse_record(raw: bytes | None) -> Record:
    """An account's record; the empty one for None. Raises UnknownFormat."""
    if raw is None:
        return EMPTY
    value = json.loads(raw)
    if value["v"] != FORMAT:
        raise UnknownFormat(f"account record of format {value['v']}, this release reads {FORMAT}")
    sessions: list[Session] = []
    newest_end, lapsed = -1, False
    for device_id, (node, session_no, kind, active, live, changed_ms) in value["d"].items():
        if live == _LIVE:
            sessions.append(Session(int(node), device_id, int(session_no), int(kind), active == 1))
        elif changed_ms > newest_end:
            newest_end, lapsed = changed_ms, live == _LAPSED
    wish = value.get("w")
    return Record(
        version=int(value["n"]),
        last_seen_ms=int(value["s"]),
        sessions=tuple(sessions),
        wish=Wish(State(int(wish[0])), wish[1], int(wish[2])) if wish is not None else None,
        lapsed=lapsed,
    )


def parse_holding(raw: bytes | None) -> Holding:
    """A node's holding within a bucket. Raises UnknownFormat."""
    if raw is None:
        return Holding()
    version, count, high, low = json.loads(raw)
    if version != FORMAT:
        raise UnknownFormat(f"holding of format {version}, this release reads {FORMAT}")
    return Holding(int(count), int(high) << 32 | int(low))


def parse_held(field_name: bytes, value: bytes) -> Held:
    """One field of a node's sessions."""
    account, _, device = field_name.decode().partition(" ")
    session_no, _, _ = value.decode().partition(" ")
    return Held(int(account), device, int(session_no))


def lease_value(node: Node) -> bytes:
    """What is stored as a node's lease."""
    return json.dumps([FORMAT, node.target, node.name]).encode()


def parse_lease(node_id: int, raw: bytes) -> Node:
    """A node by its lease. Raises UnknownFormat."""
    version, target, name = json.loads(raw)
    if version != FORMAT:
        raise UnknownFormat(f"lease of format {version}, this release reads {FORMAT}")
    return Node(node_id, target, name)
