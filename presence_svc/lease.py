"""The rules of node leases, warm-up and re-attachment. Pure: time comes in as numbers.

A node is alive while its lease is. A lease is a key in Redis that ends by itself; a beat renews
it. "Unknown" is the answer for one lease after presence may have lost what it knew: then no
session means nothing, because the nodes have not yet had the time to say theirs again.
"""

from dataclasses import dataclass

BEAT_SECONDS = 3.0
"""How often a node beats (contract)."""
POLL_SECONDS = 1.0
"""How often each replica looks at the leases; it also wakes at the end of the next one."""
NOTICE_SECONDS = 0.5
"""Part of the promised lease that is kept for noticing its end and telling the watchers."""
DOUBT_SECONDS = 0.5
"""The node is told a lease shorter by this: it must doubt itself before others doubt it."""
ALIVE_SECONDS = 4.0
"""Presence as a whole counts as interrupted when no replica reached Redis for this long."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """All times that follow from the promised lease (10 s by default).

    The order that must hold: when presence was interrupted, the mark of its being alive ends
    before any lease does. So after an interruption either no lease has ended by it, or the mark
    is gone and everybody answers "unknown".
    """

    lease_seconds: float

    def __post_init__(self) -> None:
        """Refuse leases too short for the beats.

        Raises:
            ValueError: saying the least that works.
        """
        least = BEAT_SECONDS + ALIVE_SECONDS + NOTICE_SECONDS + POLL_SECONDS
        if self.lease_seconds < least:
            raise ValueError(f"a node lease is at least {least:g} s: beats come each 3 s")

    @property
    def lease_ms(self) -> int:
        """The promise: offline is told within this after a node's death. Also the warm-up."""
        return round(self.lease_seconds * 1000)

    @property
    def key_ms(self) -> int:
        """Life of the lease's key in Redis."""
        return round((self.lease_seconds - NOTICE_SECONDS) * 1000)

    @property
    def granted_ms(self) -> int:
        """What the node is told."""
        return round((self.lease_seconds - NOTICE_SECONDS - DOUBT_SECONDS) * 1000)

    @property
    def alive_ms(self) -> int:
        """Life of the mark that some replica has reached Redis lately."""
        return round(ALIVE_SECONDS * 1000)


@dataclass(frozen=True, slots=True)
class Store:
    """What one reading of Redis says of its own past."""

    generation: int | None
    """Random, made by the first replica that finds none: a new one means that all was lost."""
    alive: bool
    """Whether some replica has reached Redis within ALIVE_SECONDS."""
    warming: bool
    """Whether a replica has noted an empty start or an interruption less than a lease ago."""


class Warmth:
    """Whether answers are to be trusted, as one replica sees it.

    The marks in Redis are shared by all replicas but end by Redis's wall clock; this replica's
    own notice of a new generation ends by its monotonic clock. Either one is enough for doubt.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._generation: int | None = None
        self._doubt_until = float("-inf")
        self._warm_marked = False

    @property
    def generation(self) -> int:
        """The generation seen last; 0 before the first reading."""
        return self._generation or 0

    def observe(self, store: Store, now_seconds: float) -> bool:
        """Take in a reading (monotonic seconds); True when what was known before is void."""
        self._warm_marked = store.warming or not store.alive or store.generation is None
        if store.generation is None:
            self._doubt_until = now_seconds + self._lease_seconds
            return False
        known, self._generation = self._generation, store.generation
        if known is None or known == store.generation:
            return False
        self._doubt_until = now_seconds + self._lease_seconds
        return True

    def unknown(self, now_seconds: float) -> bool:
        """Whether an account without a session may have one all the same."""
        return self._warm_marked or now_seconds < self._doubt_until


@dataclass(frozen=True, slots=True)
class Holding:
    """Sessions of one node: how many, and the XOR of their mixes."""

    count: int = 0
    digest: int = 0


class BeatJudge:
    """Decides over the beats of one stream whether the node shall attach all its sessions again.

    A node beats and attaches on two streams, so a difference may be an attachment under way. One
    beat's difference is therefore no proof; two in a row are, and so is a lease that was gone.
    """

    def __init__(self) -> None:
        self._differed = False

    def reattach(self, *, lease_was_live: bool, claimed: Holding, stored: Holding) -> bool:
        """Judge one beat.

        Args:
            lease_was_live: the lease existed when the beat came.
            claimed: what the node says.
            stored: what presence knows of the node.
        """
        if claimed == stored:
            self._differed = False
            return False
        if lease_was_live and not self._differed:
            self._differed = True
            return False
        self._differed = False
        return True
