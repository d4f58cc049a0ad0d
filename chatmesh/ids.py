"""Names for what is easily swapped, and the Snowflake layout.

Pure: knows neither gRPC nor storage. The meaning of each position is defined in
docs/positions.md; generation of ids lives in ``sequencer_svc.snowflake``.
"""

from dataclasses import dataclass
from typing import NewType

AccountId = NewType("AccountId", int)
"""Account inside the mesh; never leaves it. Snowflake."""
UserId = NewType("UserId", str)
"""Account as the outside names it, unique within a tenant; 1–128 characters."""
Tenant = NewType("Tenant", str)
"""Name of a tenant; 1–64 characters."""
DeviceId = NewType("DeviceId", str)
"""One installation of a client, unique within its account."""
ConversationId = NewType("ConversationId", int)
"""Snowflake."""
MessageId = NewType("MessageId", int)
"""Snowflake: identity of an event, never an order."""
NodeId = NewType("NodeId", int)
"""One life of a chat node's process; new at every start."""
ConversationSeq = NewType("ConversationSeq", int)
TimelineSeq = NewType("TimelineSeq", int)
MessageNo = NewType("MessageNo", int)
SessionNo = NewType("SessionNo", int)
BatchId = NewType("BatchId", int)
EpochMs = NewType("EpochMs", int)
"""Milliseconds since the Unix epoch."""

PROJECT_EPOCH_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z. Ids count from here: 41 bits of milliseconds last until 2095."""


@dataclass(frozen=True, slots=True)
class DecodedId:
    """The parts of a Snowflake id."""

    created_at_ms: EpochMs
    worker: int
    sequence: int


@dataclass(frozen=True, slots=True)
class SnowflakeLayout:
    """How 63 bits are split; the sign bit stays 0 so that PostgreSQL's bigint holds every id.

    The default is 41/10/12. A deployment chooses once, before its first id: decoding needs the
    same split. The time bits come first, so ids of later milliseconds compare greater.
    """

    time_bits: int = 41
    worker_bits: int = 10
    sequence_bits: int = 12
    epoch_ms: int = PROJECT_EPOCH_MS

    def __post_init__(self) -> None:
        """Refuse splits that cannot be.

        Raises:
            ValueError: the bits do not add up to 63, or a part is too small to work with.
        """
        total = self.time_bits + self.worker_bits + self.sequence_bits
        if total != 63:
            raise ValueError(
                f"time, worker and sequence bits must add up to 63, not {total} "
                f"({self.time_bits}/{self.worker_bits}/{self.sequence_bits})"
            )
        if self.time_bits < 39:
            raise ValueError("fewer than 39 time bits end within 17 years: take bits from others")
        if self.worker_bits < 1 or self.sequence_bits < 4:
            raise ValueError("at least 1 worker bit and 4 sequence bits are needed")
        if self.epoch_ms < 0:
            raise ValueError("the epoch is in ms since 1970 and cannot be negative")

    @property
    def workers(self) -> int:
        """How many workers there can be; they are numbered from 0."""
        return 1 << self.worker_bits

    @property
    def per_ms(self) -> int:
        """Ids one worker can give within one millisecond."""
        return 1 << self.sequence_bits

    @property
    def end_ms(self) -> int:
        """First millisecond since the Unix epoch that no longer fits."""
        return self.epoch_ms + (1 << self.time_bits)

    def encode(self, at_ms: int, worker: int, sequence: int) -> int:
        """Build an id.

        Args:
            at_ms: ms since the Unix epoch, within ``[epoch_ms, end_ms)``.
            worker: ``[0, workers)``.
            sequence: ``[0, per_ms)``.

        Raises:
            ValueError: a part does not fit.
        """
        if not self.epoch_ms <= at_ms < self.end_ms:
            raise ValueError(f"{at_ms} ms is outside [{self.epoch_ms}, {self.end_ms})")
        if not 0 <= worker < self.workers or not 0 <= sequence < self.per_ms:
            raise ValueError(f"worker {worker} or sequence {sequence} does not fit the layout")
        ticks = at_ms - self.epoch_ms
        return (ticks << self.worker_bits | worker) << self.sequence_bits | sequence

    def decode(self, value: int) -> DecodedId:
        """Take an id apart.

        Raises:
            ValueError: not within ``[0, 2**63)``.
        """
        if not 0 <= value < 1 << 63:
            raise ValueError(f"{value} is not an id: ids lie within [0, 2^63)")
        sequence = value & (self.per_ms - 1)
        worker = (value >> self.sequence_bits) & (self.workers - 1)
        ticks = value >> (self.worker_bits + self.sequence_bits)
        return DecodedId(EpochMs(ticks + self.epoch_ms), worker, sequence)


DEFAULT_LAYOUT = SnowflakeLayout()
