"""Which errors tell of the store, and which of what it was asked to do.

A store that is away, locked or a standby takes the same call later: it is made again. One that is
full stores nothing until a person makes room: messages are refused with `store_full()` meanwhile.
Anything else would fail again, for one of the messages, or our handling of it, is to blame: it is
found by halving and refused, and its neighbours go on.
"""

from typing import Final

import psycopg

from chatmesh import errors
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.failpoints import FailpointError
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.postgres import LostConnection

PASSING: Final = (
    LostConnection,
    StoreRefused,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,  # a standby, since a failover
    OSError,  # TimeoutError, too
    Fault,  # the sequencer does not answer
    FailpointError,  # stands for any of these in drills
)
"""Deadlocks, lock timeouts, a full disk and too many connections are OperationalErrors."""

STORE_FULL_RETRY_AFTER_SECONDS: Final = 5.0


def store_full() -> Fault:
    """The answer to what PostgreSQL has no room for."""
    return errors.STORE_FULL(retry_after_seconds=STORE_FULL_RETRY_AFTER_SECONDS)
