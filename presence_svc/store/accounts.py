"""Sessions and wishes of accounts: written by scripts that fence, read in one round trip."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from chatmesh.digest import mix_session
from presence_svc.merge import Session
from presence_svc.store import keys
from presence_svc.store.records import Held, Node, Record, View, parse_lease, parse_record
from presence_svc.store.shards import ATTACH, DETACH, END_STATUS, SET_STATE, Command, Shards

SESSIONS_PER_SCRIPT = 256
"""A script holds its server alone: 256 sessions are about 3 ms."""
PARSED_AT_ONCE = 1_000
"""Records parsed before other work of the loop gets its turn: about 3 ms."""
FENCE_MS = 600_000
"""How long the end of a session is remembered against a late attach of it."""

_BY_NODE = 0
_BY_LEASE = 2


@dataclass(frozen=True, slots=True)
class Attachment:
    """One session that came or changed."""

    account_id: int
    session: Session


@dataclass(frozen=True, slots=True)
class ToldWish:
    """What a user chose; state 0 and text None leave what is known."""

    account_id: int
    state: int = 0
    status_text: str | None = None
    status_until_ms: int = 0
    """Unix ms; 0 = never."""
    number: int = 0
    """Rises with each wish of the account; 0 = the newest."""


class _OfAccount(Protocol):
    @property
    def account_id(self) -> int: ...


_ItemT = TypeVar("_ItemT", bound=_OfAccount)


class AccountStore:
    """Accounts in Redis."""

    def __init__(self, shards: Shards, *, keep_ms: int) -> None:
        """`keep_ms`: how long an account without session or wish is remembered (last seen)."""
        self._shards = shards
        self._keep_ms = keep_ms
        self._known_nodes: frozenset[int] = frozenset()

    async def attach(
        self, node_id: int, attachments: Sequence[Attachment], now_ms: int
    ) -> list[Attachment]:
        """Write sessions of a node; those that are superseded. Safe to repeat."""
        groups = _grouped(attachments)
        commands: list[Command] = [("SADD", keys.NODES, node_id)]
        commands += [self._attach(node_id, bucket, group, now_ms) for bucket, group in groups]
        _, *answers = await self._shards.run(commands)
        return [
            item
            for (_, group), answer in zip(groups, answers, strict=True)
            for item, superseded in zip(group, answer, strict=True)
            if superseded
        ]

    async def detach(
        self, node_id: int, sessions: Sequence[Held], now_ms: int, *, lapsed: bool = False
    ) -> int:
        """Take sessions of a node away; how many accounts changed. Safe to repeat.

        `lapsed`: the lease ended, the node did not say so.
        """
        how = _BY_LEASE if lapsed else _BY_NODE
        groups = _grouped(sessions)
        answers = await self._shards.run(
            [self._detach(node_id, bucket, group, now_ms, how) for bucket, group in groups]
        )
        return sum(answers)

    async def read(self, account_ids: Iterable[int]) -> View:
        """Accounts with the leases and marks of the same moment.

        One round trip per server; a second one only for nodes that this replica never saw.
        """
        known = sorted(self._known_nodes)
        marks = ("MGET", keys.GENERATION, keys.ALIVE, keys.WARMING, *map(keys.lease, known))
        wanted = tuple(dict.fromkeys(account_ids))
        (generation, alive, warming, *leases), raws = await self._read(marks, wanted)
        records: dict[int, Record] = {}
        for start in range(0, len(wanted), PARSED_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            end = start + PARSED_AT_ONCE
            for account_id, raw in zip(wanted[start:end], raws[start:end], strict=True):
                records[account_id] = parse_record(raw)
        nodes = _live(known, leases)
        named = {session.node_id for record in records.values() for session in record.sessions}
        unseen = sorted(named - self._known_nodes)
        if unseen:
            answer = await self._shards.run_one(("MGET", *map(keys.lease, unseen)))
            nodes |= _live(unseen, answer)
            self.know_nodes(frozenset(nodes))
        return View(
            generation=int(generation) if generation is not None else None,
            alive=alive is not None,
            warming=warming is not None,
            nodes=nodes,
            records=records,
        )

    def know_nodes(self, node_ids: frozenset[int]) -> None:
        """The nodes whose leases are read along with accounts."""
        self._known_nodes = node_ids

    async def set_state(self, told: ToldWish, now_ms: int) -> int:
        """Write a wish field by field; the record's new version."""
        return int(await self._shards.run_one(self._set_state(told, now_ms)))

    async def set_states(self, told: Sequence[ToldWish], now_ms: int) -> None:
        """Write many in one round trip per server. Safe to repeat."""
        await self._shards.run([self._set_state(one, now_ms) for one in told])

    async def forget(self, account_ids: Sequence[int]) -> None:
        """Delete all that is known of accounts without sessions. Safe to repeat."""
        await self._shards.run([("DEL", keys.account(account_id)) for account_id in account_ids])

    async def end_statuses(self, account_ids: Sequence[int], now_ms: int) -> None:
        """Take away status texts whose end has come."""
        await self._shards.run(
            [
                END_STATUS.command(
                    (keys.changes(keys.bucket_of(account_id)), keys.account(account_id)),
                    self._account_arguments(account_id, now_ms),
                )
                for account_id in account_ids
            ]
        )

    def _set_state(self, told: ToldWish, now_ms: int) -> Command:
        bucket = keys.bucket_of(told.account_id)
        return SET_STATE.command(
            (keys.changes(bucket), keys.account(told.account_id)),
            (
                *self._account_arguments(told.account_id, now_ms),
                int(told.state),  # the driver writes an enum by its repr
                0 if told.status_text is None else 1,
                told.status_text or "",
                told.status_until_ms,
                told.number,
            ),
        )

    def _account_arguments(self, account_id: int, now_ms: int) -> tuple[str | int, ...]:
        bucket = keys.bucket_of(account_id)
        return keys.CHANGES, bucket, account_id, now_ms, FENCE_MS, self._keep_ms

    def _attach(
        self, node_id: int, bucket: int, group: Sequence[Attachment], now_ms: int
    ) -> Command:
        arguments: list[str | int] = [
            keys.CHANGES, bucket, node_id, now_ms, FENCE_MS, self._keep_ms,
        ]  # fmt: skip
        for item in group:
            session = item.session
            mix = mix_session(item.account_id, session.session_no)
            arguments += (
                item.account_id,
                session.device_id,
                session.session_no,
                session.kind,
                int(session.active),
                f"{mix >> 32}:{mix & 0xFFFFFFFF}",
            )
        return ATTACH.command(_script_keys(node_id, bucket, group), arguments)

    def _detach(
        self, node_id: int, bucket: int, group: Sequence[Held], now_ms: int, how: int
    ) -> Command:
        arguments: list[str | int] = [
            keys.CHANGES, bucket, node_id, now_ms, FENCE_MS, self._keep_ms, how,
        ]  # fmt: skip
        for item in group:
            arguments += (item.account_id, item.device_id, item.session_no)
        return DETACH.command(_script_keys(node_id, bucket, group), arguments)

    async def _read(self, marks: Command, wanted: Sequence[int]) -> tuple[list[Any], list[Any]]:
        if not self._shards.is_cluster:
            answer = await self._shards.run_one((*marks, *map(keys.account, wanted)))
            size = len(marks) - 1
            return answer[:size], answer[size:]
        groups: dict[int, list[int]] = defaultdict(list)
        for account_id in wanted:
            groups[keys.bucket_of(account_id)].append(account_id)
        reads = [("MGET", *map(keys.account, group)) for group in groups.values()]
        first, *answers = await self._shards.run([marks, *reads])
        found = {
            account_id: raw
            for group, answer in zip(groups.values(), answers, strict=True)
            for account_id, raw in zip(group, answer, strict=True)
        }
        return first, [found[account_id] for account_id in wanted]


def _grouped(items: Sequence[_ItemT]) -> list[tuple[int, list[_ItemT]]]:
    """Items by bucket, in order, at most SESSIONS_PER_SCRIPT each."""
    groups: dict[int, list[_ItemT]] = defaultdict(list)
    for item in items:
        groups[keys.bucket_of(item.account_id)].append(item)
    return [
        (bucket, group[start : start + SESSIONS_PER_SCRIPT])
        for bucket, group in groups.items()
        for start in range(0, len(group), SESSIONS_PER_SCRIPT)
    ]


def _script_keys(node_id: int, bucket: int, group: Sequence[Attachment | Held]) -> list[str]:
    return [
        keys.changes(bucket),
        keys.sessions(bucket, node_id),
        keys.holding(bucket, node_id),
        *(keys.account(item.account_id) for item in group),
    ]


def _live(node_ids: Iterable[int], leases: Iterable[bytes | None]) -> dict[int, Node]:
    return {
        node_id: parse_lease(node_id, raw)
        for node_id, raw in zip(node_ids, leases, strict=True)
        if raw is not None
    }
