"""All Deliver streams of this replica, one per chat node that is in use.

Role: opens a link when a node is first needed, closes it when it is given up or unused for long.
Rules: a link that dies of a bug ends the process (a restart heals); one that a node's silence or
absence ends is made anew when the node is needed again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from chatmesh.mesh.v1 import node_pb2_grpc
from chatmesh.runtime import metrics
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.peers import Peer
from chatmesh.runtime.settings import ServerSettings
from sync_svc import measures
from sync_svc.link import Link
from sync_svc.plan import NodeDelivery

UNUSED_SECONDS: Final = 300.0
LOOK_SECONDS: Final = 10.0
MAX_LINKS: Final = 10_000
"""Of nodes in use at once; more are refused as if they were gone: targets come from the queue."""
CALLER: Final = "sync_svc"

_log = logger(__name__)
_budget = LogBudget(per_second=2)


@dataclass(slots=True)
class _Open:
    """A link and what runs it."""

    link: Link
    peer: Peer
    task: asyncio.Task[None]


class Links:
    """See the module's text."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        answer_seconds: float,
        on_answer: Callable[[list[tuple[NodeDelivery, bool]]], None],
        on_no_answer: Callable[[int, list[NodeDelivery]], None],
    ) -> None:
        """`on_answer`: see Link. `on_no_answer(node, deliveries)` hears what a node left open."""
        self._settings = settings
        self._answer_seconds = answer_seconds
        self._on_answer = on_answer
        self._on_no_answer = on_no_answer
        self._open: dict[int, _Open] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._died: asyncio.Future[None] | None = None
        self._count = metrics.gauge(measures.LINKS)

    def __len__(self) -> int:
        return len(self._open)

    def to(self, node_id: int, target: str) -> Link | None:
        """The link to a node, made now if there is none; None when it cannot be made."""
        found = self._open.get(node_id)
        if found is not None:
            return found.link
        if not target or len(self._open) >= MAX_LINKS:
            return None
        try:
            peer = Peer(target, self._settings, caller=CALLER)
        except ValueError:
            if _budget.take():
                _log.error("a node's target cannot be used", node=node_id)
            return None
        stub: Any = node_pb2_grpc.ChatNodeServiceStub(peer.channel)
        link = Link(
            stub.Deliver,
            node_id,
            answer_seconds=self._answer_seconds,
            on_answer=self._on_answer,
            on_given_up=self._give_up,
        )
        task = asyncio.get_running_loop().create_task(link.run(), name=f"deliver to {node_id}")
        task.add_done_callback(self._ended)
        self._open[node_id] = _Open(link, peer, task)
        self._count.set(len(self._open))
        return link

    async def run(self) -> None:
        """Close what is unused; ends with the exception of a link that died of a bug."""
        loop = asyncio.get_running_loop()
        self._died = loop.create_future()
        while True:
            done, _ = await asyncio.wait((self._died,), timeout=LOOK_SECONDS)
            if done:
                self._died.result()
            before = loop.time() - UNUSED_SECONDS
            for one in list(self._open.values()):
                if one.link.is_idle and one.link.used_at < before:
                    one.link.give_up("unused")

    async def flush(self) -> None:
        """Return once every link has written what waits and has its answers, or is given up."""
        await asyncio.gather(*(one.link.flush() for one in self._open.values()))

    async def close(self) -> None:
        """Close all links."""
        for one in list(self._open.values()):
            one.link.give_up("stopping")
        while self._closing:
            await asyncio.wait(self._closing)

    def states(self) -> Mapping[int, bool]:
        """Whether the stream to each node is open, for tests and operators."""
        return {node_id: one.link.is_open for node_id, one in self._open.items()}

    def _give_up(self, link: Link, cause: str) -> None:
        found = self._open.pop(link.node_id, None)
        if found is None:
            return
        self._count.set(len(self._open))
        metrics.counter(measures.LINKS_CLOSED).labels(_cause_label(cause)).inc()
        if cause == "no_answer" and _budget.take():
            _log.warning("node given up: it did not answer", node=link.node_id)
        task = asyncio.get_running_loop().create_task(_close(found), name="close a link")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        left = link.take_back()
        if left:
            self._on_no_answer(link.node_id, left)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception() or RuntimeError("a Deliver stream's loop ended by itself")
        if self._died is not None and not self._died.done():
            self._died.set_exception(error)
        else:
            _log.critical("a Deliver stream's loop died", exc_info=error)


async def _close(one: _Open) -> None:
    while not one.task.done():
        one.task.cancel()
        await asyncio.wait((one.task,), timeout=1)
    await one.peer.close()


def _cause_label(cause: str) -> str:
    return cause if cause in ("no_answer", "unused", "stopping") else "ended"
