"""Unary methods while the store is away: tried again, then UNAVAILABLE, never INTERNAL; while its
disk is full, STORE_FULL at once.

Every unary method may be run again: what appends an event does so under the caller's key, what sets
a state is idempotent by nature. After a restart of PostgreSQL each connection of the pool fails
once, at once, when it is next used; a pool that cannot connect has waited long enough by itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import psycopg

from chat_svc.node.store_errors import store_full
from chatmesh import errors
from chatmesh.runtime.postgres import LostConnection

RETRY_AFTER_SECONDS: Final = 1.0
MAX_RUNS: Final = 12
"""More than a pool has connections (8 by default), so that dead ones are used up."""

S = TypeVar("S", bound=type)


def outlives_the_store(servicer: S) -> S:
    """Class decorator: wraps all methods of the contract."""
    for name, method in list(vars(servicer).items()):
        if name[0].isupper() and inspect.iscoroutinefunction(method):
            setattr(servicer, name, _wrapped(method))
    return servicer


def _wrapped(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def call(self: Any, request: Any, context: Any) -> Any:
        for _ in range(MAX_RUNS):
            try:
                return await method(self, request, context)
            except LostConnection as lost:
                if not lost.unknown_outcome:
                    break  # none could be had: the pool has waited
            except psycopg.errors.DiskFull:
                raise store_full() from None
            except psycopg.errors.LockNotAvailable:
                break  # it has waited for seconds
            except psycopg.OperationalError:
                continue  # a deadlock, a server that shuts down: nothing happened
        raise errors.NOT_SERVING(
            "the store is away", retry_after_seconds=RETRY_AFTER_SECONDS, missing="postgresql"
        )

    return call
