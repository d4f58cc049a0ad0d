"""What goes in and out of the session machine, as plain values. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from chatmesh.client import errors
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1.types_pb2 import DeviceKind, Entry


@dataclass(frozen=True, slots=True)
class Config:
    """What a device says of itself and how patient it is. Sizes in bytes, times in seconds."""

    device_id: str = ""
    device_kind: DeviceKind.ValueType = DeviceKind.DEVICE_KIND_UNSPECIFIED
    device_name: str = ""
    client_version: str = ""
    start_at_head: bool = False
    can_renew_token: bool = False
    backoff_base_seconds: float = 0.1
    backoff_cap_seconds: float = 20.0


# -- what the driver shall do next ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """Write this frame."""

    frame: pb.ClientFrame


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Say that no more frames come; go on reading."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Give the stream up."""

    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something is offered, or until this monotonic time."""

    until: float


Step: TypeAlias = Write | HalfClose | Cut | Wait


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Open a stream after so many seconds; `elsewhere` asks for another node if there is one."""

    after_seconds: float
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """After so many seconds read GetSnapshot to its end, then call `snapshot_taken`."""

    after_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """It is over. `error` None: the application left."""

    error: errors.ChatmeshError | None


Next: TypeAlias = Reconnect | TakeSnapshot | Ended


@dataclass(slots=True)
class Settled:
    """The answer to one message; `problem` None means accepted at these positions."""

    key: bytes
    result: pb.SendResult
    problem: errors.ChatmeshError | None = None


@dataclass(slots=True)
class Received:
    """What one frame brought; empty parts are empty."""

    welcome: pb.Welcome | None = None
    begins: bool = False
    entries: Sequence[Entry] = ()
    settled: list[Settled] = field(default_factory=list)
    caught_up: bool = False
    receipts: Sequence[pb.Receipt] = ()
    presence: Sequence[pb.Presence] = ()
    typing: Sequence[pb.Typing] = ()
    pong: pb.Pong | None = None
