"""Broadcast to any number of iterators, each with a bounded buffer in which the newest per key
waits. What receipts, presence, typing and the client's own events travel in.

Rules: publishing never blocks and never fails; a slow reader sees fewer, newer values. One event
loop, no locks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, TypeVar

V = TypeVar("V")

MAX_BUFFERED: Final = 4096
"""Keys that wait for one reader; above it the oldest is dropped."""


class Subscription(Generic[V]):
    """An async iterator; `close()` ends it, and so does the end of the client."""

    def __init__(self, topic: Topic[V], seed: dict[Hashable, V]) -> None:
        self._topic = topic
        self._waiting: dict[Hashable, V] = seed
        self._wake = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None

    def __aiter__(self) -> Subscription[V]:
        return self

    async def __anext__(self) -> V:
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._waiting.pop(next(iter(self._waiting)))

    def close(self) -> None:
        """No more values are wanted."""
        self._topic.leave(self)
        self.end(None)

    def offer(self, key: Hashable, value: V, merge: Callable[[V, V], V]) -> None:
        """For the topic: a value arrives."""
        before = self._waiting.pop(key, None)
        self._waiting[key] = value if before is None else merge(before, value)
        if len(self._waiting) > MAX_BUFFERED:
            del self._waiting[next(iter(self._waiting))]
        self._wake.set()

    def end(self, error: BaseException | None) -> None:
        """For the topic: what waits is still given out, then the iteration ends."""
        self._ended, self._error = True, error
        self._wake.set()


class Topic(Generic[V]):
    """Values of one kind. `keep`: a new reader first gets the newest value of so many keys."""

    def __init__(
        self,
        key: Callable[[V], Hashable] | None = None,
        *,
        keep: int = 0,
        merge: Callable[[V, V], V] = lambda before, value: value,
    ) -> None:
        self._key = key
        self._keep = keep
        self._merge = merge
        self._kept: dict[Hashable, V] = {}
        self._readers: list[Subscription[V]] = []
        self._count = 0
        self._end: tuple[BaseException | None] | None = None

    @property
    def kept(self) -> Iterable[V]:
        """The newest value of each key."""
        return self._kept.values()

    def publish(self, values: Iterable[V]) -> None:
        """Hand values to every reader."""
        for value in values:
            self._count += 1
            key = self._count if self._key is None else self._key(value)
            if self._keep:
                before = self._kept.pop(key, None)
                self._kept[key] = value if before is None else self._merge(before, value)
                if len(self._kept) > self._keep:
                    del self._kept[next(iter(self._kept))]
            for reader in self._readers:
                reader.offer(key, value, self._merge)

    def subscribe(self) -> Subscription[V]:
        """An iterator over what comes from now on (and what is kept)."""
        subscription = Subscription(self, dict(self._kept))
        if self._end is not None:
            subscription.end(self._end[0])
        else:
            self._readers.append(subscription)
        return subscription

    def leave(self, subscription: Subscription[V]) -> None:
        """For subscriptions: stop handing values to this one."""
        if subscription in self._readers:
            self._readers.remove(subscription)

    def end(self, error: BaseException | None) -> None:
        """No more values come."""
        self._end = (error,)
        for reader in self._readers:
            reader.end(error)
        self._readers.clear()
