"""Leases of chat nodes, what each holds, and the marks of presence's own life."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

from presence_svc.lease import Holding, LeaseTimes, Store
from presence_svc.store import keys
from presence_svc.store.records import (
    Held,
    Node,
    lease_value,
    parse_held,
    parse_holding,
    parse_lease,
)
from presence_svc.store.shards import BEAT, FORGET, POLL, Shards

REAPING_MS = 5_000
"""A replica that dies while it takes a node's sessions away is followed by another after this."""
_GENERATION_BITS = 63
"""Generations fit JSON readers and PostgreSQL's bigint, should anybody store one."""


@dataclass(frozen=True, slots=True)
class Roll:
    """All nodes at one look."""

    store: Store
    live: dict[int, Node]
    dead: tuple[int, ...]
    """Nodes whose lease has ended and whose sessions are not all taken away."""
    next_end_seconds: float | None
    """Until the next lease ends, if it is not renewed."""


class NodeStore:
    """Nodes in Redis."""

    def __init__(self, shards: Shards, times: LeaseTimes) -> None:
        self._shards = shards
        self._times = times

    async def beat(self, node: Node) -> tuple[bool, Holding]:
        """Renew a lease; whether it was live before, and what is known of the node's sessions."""
        beat = BEAT.command(
            (keys.lease(node.node_id), keys.NODES),
            (node.node_id, lease_value(node), self._times.key_ms),
        )
        answers = await self._shards.run((beat, *self._holding_commands(node.node_id)))
        return answers[0] == 1, _sum(answers[1:])

    async def leave(self, node_id: int) -> None:
        """End a lease now. The node's sessions are taken away like a dead one's."""
        await self._shards.run_one(("DEL", keys.lease(node_id)))

    async def has_lease(self, node_id: int) -> bool:
        """Whether the node's lease is live."""
        return bool(await self._shards.run_one(("EXISTS", keys.lease(node_id))))

    async def look(self) -> Roll:
        """Mark that presence lives and list the nodes."""
        answer = await self._shards.run_one(
            POLL.command(
                (keys.GENERATION, keys.ALIVE, keys.WARMING, keys.NODES),
                (
                    secrets.randbits(_GENERATION_BITS) or 1,
                    self._times.alive_ms,
                    self._times.lease_ms,
                    self._times.key_ms,
                    keys.LEASE_PREFIX,
                ),
            )
        )
        generation, warming, *nodes = answer
        live: dict[int, Node] = {}
        dead: list[int] = []
        ends: list[int] = []
        for raw_id, raw_lease, left_ms in nodes:
            node_id = int(raw_id)
            if raw_lease is None:
                dead.append(node_id)
            else:
                live[node_id] = parse_lease(node_id, raw_lease)
                ends.append(left_ms)
        return Roll(
            Store(generation=int(generation), alive=True, warming=warming == 1),
            live,
            tuple(dead),
            min(ends) / 1000 if ends else None,
        )

    async def claim_reaping(self, node_id: int) -> bool:
        """Whether this replica shall take the dead node's sessions away."""
        answer = await self._shards.run_one(
            ("SET", keys.reaping(node_id), "1", "NX", "PX", REAPING_MS)
        )
        return answer is not None

    async def held_by(self, node_id: int) -> list[Held]:
        """All sessions that are known of a node."""
        answers = await self._shards.run(
            [("HGETALL", keys.sessions(bucket, node_id)) for bucket in range(keys.BUCKETS)]
        )
        return [parse_held(name, value) for answer in answers for name, value in _pairs(answer)]

    async def forget(self, node_id: int) -> bool:
        """End the reaping of a dead node and forget it; False when it has come back."""
        forgotten, _ = await self._shards.run(
            (
                FORGET.command((keys.lease(node_id), keys.NODES), (node_id,)),
                ("DEL", keys.reaping(node_id)),
            )
        )
        return bool(forgotten == 1)

    async def change_counts(self) -> dict[int, int]:
        """How many changes each bucket has seen."""
        names = [keys.changes(bucket) for bucket in range(keys.BUCKETS)]
        if self._shards.is_cluster:
            answers = await self._shards.run([("GET", name) for name in names])
        else:
            answers = await self._shards.run_one(("MGET", *names))
        return {bucket: int(answer or 0) for bucket, answer in enumerate(answers)}

    def _holding_commands(self, node_id: int) -> list[tuple[str, ...]]:
        names = [keys.holding(bucket, node_id) for bucket in range(keys.BUCKETS)]
        if self._shards.is_cluster:
            return [("MGET", name) for name in names]
        return [("MGET", *names)]


def _sum(answers: Iterable[list[bytes | None]]) -> Holding:
    parts = (parse_holding(raw) for answer in answers for raw in answer if raw is not None)
    return reduce(
        lambda sum_, part: Holding(sum_.count + part.count, sum_.digest ^ part.digest),
        parts,
        Holding(),
    )


def _pairs(answer: dict[bytes, bytes] | list[bytes]) -> Iterable[tuple[bytes, bytes]]:
    """RESP3 answers HGETALL with a map; a cluster pipeline may hand it out as a flat list."""
    if isinstance(answer, dict):
        return answer.items()
    return zip(answer[::2], answer[1::2], strict=True)
