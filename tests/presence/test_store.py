"""Leases, sessions and wishes in a real Valkey: fences, holdings, one round trip."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from itertools import permutations

import pytest
from redis.asyncio import Redis

from chatmesh.digest import mix_session
from chatmesh.runtime import redis
from presence_svc.lease import Holding, LeaseTimes
from presence_svc.merge import State, Wish
from presence_svc.store import keys
from presence_svc.store.accounts import FENCE_MS, AccountStore, ToldWish
from presence_svc.store.changes import Change, subscribe
from presence_svc.store.nodes import NodeStore
from presence_svc.store.records import Record, UnknownFormat, View, parse_record
from presence_svc.store.shards import Shards, StoreAway, StoreBroken
from tests.presence.parts import DESKTOP, KEEP_MS, NOW_MS, PHONE, came, node, went

A, B = 7_100_000_000_000_001, 7_100_000_000_000_002
"""Nodes whose ids do not fit a double: Lua must not round them."""
ALICE, BOB = (1 << 62) + 1, (1 << 62) + 3


async def read(accounts: AccountStore, account_id: int = ALICE) -> Record:
    return (await accounts.read([account_id])).records[account_id]


def devices(view: View, account_id: int = ALICE) -> dict[str, tuple[int, int]]:
    sessions = view.live_sessions(view.records[account_id])
    return {session.device_id: (session.node_id, session.session_no) for session in sessions}


async def test_an_attached_session_is_routed_while_its_node_lives(
    accounts: AccountStore, nodes: NodeStore, client: Redis
) -> None:
    assert await nodes.beat(node(A)) == (False, Holding())
    assert await accounts.attach(A, [came(ALICE, 1)], NOW_MS) == []
    view = await accounts.read([ALICE, BOB])
    assert devices(view) == {"phone": (A, 1)}
    assert view.nodes == {A: node(A)}
    assert view.records[BOB] == Record()
    await client.delete(keys.lease(A))
    assert devices(await accounts.read([ALICE])) == {}


async def test_holdings_follow_what_a_node_has(accounts: AccountStore, nodes: NodeStore) -> None:
    await nodes.beat(node(A))
    many = [came(ALICE + 2 * i, i + 1, kind=DESKTOP) for i in range(700)]
    await accounts.attach(A, many, NOW_MS)
    digest = 0
    for item in many:
        digest ^= mix_session(item.account_id, item.session.session_no)
    assert await nodes.beat(node(A)) == (True, Holding(700, digest))
    gone = many[:699]
    await accounts.detach(
        A, [went(item.account_id, item.session.session_no) for item in gone], NOW_MS
    )
    last = many[699]
    rest = Holding(1, mix_session(last.account_id, last.session.session_no))
    assert await nodes.beat(node(A)) == (True, rest)
    assert await nodes.beat(node(B)) == (False, Holding())


async def test_repeating_an_attach_changes_nothing(
    accounts: AccountStore, nodes: NodeStore
) -> None:
    await nodes.beat(node(A))
    for _ in range(3):
        await accounts.attach(A, [came(ALICE, 1), came(ALICE, 4, "laptop")], NOW_MS)
    record = await read(accounts)
    assert record.version == 2
    assert (await nodes.beat(node(A)))[1].count == 2


async def test_a_device_that_moved_belongs_to_its_newest_session(
    accounts: AccountStore, nodes: NodeStore
) -> None:
    await nodes.beat(node(A))
    await nodes.beat(node(B))
    await accounts.attach(A, [came(ALICE, 1)], NOW_MS)
    assert await accounts.attach(B, [came(ALICE, 2)], NOW_MS) == []
    late = came(ALICE, 1)
    assert await accounts.attach(A, [late], NOW_MS) == [late]
    assert await accounts.detach(A, [went(ALICE, 1)], NOW_MS) == 0
    assert devices(await accounts.read([ALICE])) == {"phone": (B, 2)}
    assert (await nodes.beat(node(A)))[1] == Holding()
    assert (await nodes.beat(node(B)))[1].count == 1


async def test_a_device_that_moved_is_missed_where_it_was(
    accounts: AccountStore, nodes: NodeStore
) -> None:
    for number in (A, B):
        await nodes.beat(node(number))
    await accounts.attach(A, [came(ALICE, 1), came(ALICE, 4, "laptop"), came(BOB, 1)], NOW_MS)
    await accounts.attach(B, [came(ALICE, 2), came(BOB, 3)], NOW_MS)
    stays = Holding(1, mix_session(ALICE, 4))
    assert (await nodes.beat(node(A)))[1] == stays, "so the node is asked for all it has"
    assert [(held.account_id, held.device_id) for held in await nodes.held_by(A)] == [
        (ALICE, "laptop")
    ]
    moved = Holding(2, mix_session(ALICE, 2) ^ mix_session(BOB, 3))
    assert (await nodes.beat(node(B)))[1] == moved
    # and back; then what the other says late of its older ones changes nothing
    await accounts.attach(A, [came(ALICE, 5)], NOW_MS)
    await accounts.detach(B, [went(ALICE, 2)], NOW_MS)
    assert await accounts.attach(B, [came(ALICE, 2)], NOW_MS) == [came(ALICE, 2)]
    assert (await nodes.beat(node(A)))[1] == Holding(2, stays.digest ^ mix_session(ALICE, 5))
    assert (await nodes.beat(node(B)))[1] == Holding(1, mix_session(BOB, 3))


@pytest.mark.parametrize("order", list(permutations(range(4))))
async def test_any_order_of_attach_and_detach_ends_the_same(
    accounts: AccountStore, nodes: NodeStore, order: tuple[int, ...]
) -> None:
    """Session 1 lives and ends on A, session 2 lives on B and ends there: nothing may live on."""
    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: accounts.attach(A, [came(ALICE, 1)], NOW_MS),
        lambda: accounts.detach(A, [went(ALICE, 1)], NOW_MS),
        lambda: accounts.attach(B, [came(ALICE, 2)], NOW_MS),
        lambda: accounts.detach(B, [went(ALICE, 2)], NOW_MS),
    ]
    await nodes.beat(node(A))
    await nodes.beat(node(B))
    for step in order:
        await steps[step]()
    assert (await read(accounts)).sessions == ()


async def test_fences_end(accounts: AccountStore) -> None:
    await accounts.attach(A, [came(ALICE, 1)], NOW_MS)
    await accounts.detach(A, [went(ALICE, 1)], NOW_MS)
    later = NOW_MS + FENCE_MS + 1
    await accounts.attach(A, [came(ALICE, 9, "laptop")], later)
    assert await accounts.attach(A, [came(ALICE, 1)], later) == []


async def test_a_lapsed_session_may_come_back_but_an_older_one_not(
    accounts: AccountStore, nodes: NodeStore
) -> None:
    await nodes.beat(node(A))
    await accounts.attach(A, [came(ALICE, 5)], NOW_MS)
    held = await nodes.held_by(A)
    assert held == [went(ALICE, 5)]
    assert await accounts.detach(A, held, NOW_MS + 1, lapsed=True) == 1
    record = await read(accounts)
    assert (record.sessions, record.lapsed, record.last_seen_ms) == ((), True, NOW_MS + 1)
    older = came(ALICE, 4)
    assert await accounts.attach(A, [older], NOW_MS) == [older]
    assert await accounts.attach(A, [came(ALICE, 5)], NOW_MS) == []
    assert devices(await accounts.read([ALICE])) == {"phone": (A, 5)}


async def test_an_account_without_sessions_is_forgotten_in_time(
    accounts: AccountStore, client: Redis
) -> None:
    await accounts.attach(A, [came(ALICE, 1)], NOW_MS)
    assert await client.pttl(keys.account(ALICE)) == -1
    await accounts.detach(A, [went(ALICE, 1)], NOW_MS)
    assert 0 < await client.pttl(keys.account(ALICE)) <= KEEP_MS
    await accounts.set_state(ToldWish(ALICE, State.INVISIBLE, None, 0), NOW_MS)
    assert await client.pttl(keys.account(ALICE)) == -1


async def test_wishes_are_set_field_by_field(accounts: AccountStore) -> None:
    async def wish(state: int, text: str | None, until: int = 0) -> Wish | None:
        await accounts.set_state(ToldWish(ALICE, state, text, until), NOW_MS)
        return (await read(accounts)).wish

    assert (await read(accounts)).wish is None
    assert await wish(0, "am Meer 🏖", NOW_MS + 5) == Wish(State.ONLINE, "am Meer 🏖", NOW_MS + 5)
    assert await wish(4, None) == Wish(State.DO_NOT_DISTURB, "am Meer 🏖", NOW_MS + 5)
    version = (await read(accounts)).version
    assert await wish(4, None) == Wish(State.DO_NOT_DISTURB, "am Meer 🏖", NOW_MS + 5)
    assert (await read(accounts)).version == version, "nothing changed"
    await accounts.end_statuses([ALICE], NOW_MS + 4)
    assert (await read(accounts)).version == version, "the text has not ended"
    await accounts.end_statuses([ALICE], NOW_MS + 5)
    assert await wish(0, None) == Wish(State.DO_NOT_DISTURB, "", 0)


async def test_an_older_wish_that_comes_later_is_ignored(accounts: AccountStore) -> None:
    invisible = ToldWish(ALICE, State.INVISIBLE, "new", 0, number=8)
    await accounts.set_states([invisible, ToldWish(BOB, State.ONLINE, "hi", 0, number=1)], NOW_MS)
    version = (await read(accounts)).version
    await accounts.set_states(
        [invisible, ToldWish(ALICE, State.ONLINE, "old", 0, number=7)], NOW_MS
    )
    record = await read(accounts)
    assert (record.wish, record.version) == (Wish(State.INVISIBLE, "new", 0), version)
    assert (await read(accounts, BOB)).wish == Wish(State.ONLINE, "hi", 0)
    await accounts.set_state(ToldWish(ALICE, State.ONLINE, None), NOW_MS)
    assert (await read(accounts)).wish == Wish(State.ONLINE, "new", 0), "without number: newest"


async def test_last_seen_stops_where_a_user_goes_invisible(accounts: AccountStore) -> None:
    await accounts.attach(A, [came(ALICE, 1)], NOW_MS)
    await accounts.set_state(ToldWish(ALICE, State.INVISIBLE, None, 0), NOW_MS + 10)
    await accounts.detach(A, [went(ALICE, 1)], NOW_MS + 20)
    assert (await read(accounts)).last_seen_ms == NOW_MS + 10


async def test_changes_are_told_with_a_contiguous_count(
    accounts: AccountStore, client: Redis, nodes: NodeStore
) -> None:
    changes = subscribe(client)
    assert await anext(changes) is None
    await accounts.attach(A, [came(ALICE, 1), came(ALICE, 1, "laptop")], NOW_MS)
    await accounts.attach(A, [came(ALICE, 1, active=False)], NOW_MS)
    await accounts.attach(A, [came(ALICE, 1, active=False)], NOW_MS)
    await accounts.detach(A, [went(ALICE, 1)], NOW_MS)
    bucket = keys.bucket_of(ALICE)
    assert await anext(changes) == Change(bucket, 1, (ALICE, ALICE))
    assert await anext(changes) == Change(bucket, 2, (ALICE,))
    assert await anext(changes) == Change(bucket, 3, (ALICE,))
    assert (await nodes.change_counts())[bucket] == 3
    await changes.aclose()


async def test_a_look_starts_and_warms(client: Redis, nodes: NodeStore) -> None:
    first = await nodes.look()
    assert first.store.warming
    again = await nodes.look()
    assert again.store.generation == first.store.generation
    await client.delete(keys.WARMING)
    assert not (await nodes.look()).store.warming
    await client.delete(keys.ALIVE)
    assert (await nodes.look()).store.warming, "presence as a whole was interrupted"
    await client.delete(keys.GENERATION, keys.WARMING)
    renewed = await nodes.look()
    assert renewed.store.generation != first.store.generation
    assert renewed.store.warming


async def test_a_look_lists_the_living_and_the_dead(client: Redis, nodes: NodeStore) -> None:
    await nodes.beat(node(A))
    await nodes.beat(node(B))
    await nodes.leave(B)
    roll = await nodes.look()
    assert (roll.live, roll.dead) == ({A: node(A)}, (B,))
    assert roll.next_end_seconds is not None
    assert 0 < roll.next_end_seconds <= LeaseTimes(10).key_ms / 1000
    assert await nodes.forget(B)
    assert not await nodes.forget(A), "it lives"
    assert (await nodes.look()).dead == ()


async def test_no_lease_outlives_its_promise_when_the_clock_goes_back(
    client: Redis, nodes: NodeStore
) -> None:
    await nodes.beat(node(A))
    await client.pexpire(keys.lease(A), 3_600_000)  # what a step back of one hour amounts to
    await nodes.look()
    assert await client.pttl(keys.lease(A)) <= LeaseTimes(10).key_ms


async def test_ten_thousand_accounts_are_one_command(
    accounts: AccountStore, nodes: NodeStore, client: Redis
) -> None:
    await nodes.beat(node(A))
    wanted = [random.randrange(1, 1 << 63) for _ in range(10_000)]
    await accounts.attach(A, [came(account_id, 1) for account_id in wanted], NOW_MS)
    accounts.know_nodes(frozenset((A,)))
    before = (await client.info("stats"))["total_commands_processed"]
    view = await accounts.read(wanted)
    after = (await client.info("stats"))["total_commands_processed"]
    assert all(devices(view, account_id) == {"phone": (A, 1)} for account_id in wanted)
    assert after - before - 1 == 1


async def test_buckets_fill_evenly_whatever_the_sequence_bits() -> None:
    counts = [0] * keys.BUCKETS
    for ticks in range(20_000):
        counts[keys.bucket_of((ticks * 3_001 << 22) | (3 << 12))] += 1
    assert max(counts) < 1.5 * 20_000 / keys.BUCKETS


async def test_scripts_are_told_again_after_a_restart(
    accounts: AccountStore, client: Redis
) -> None:
    await accounts.attach(A, [came(ALICE, 1)], NOW_MS)
    await client.script_flush()
    await accounts.attach(A, [came(ALICE, 1), came(BOB, 1)], NOW_MS)
    assert len((await read(accounts, BOB)).sessions) == 1


async def test_a_newer_format_is_refused(accounts: AccountStore, client: Redis) -> None:
    await client.set(keys.account(ALICE), '{"v":2,"n":1,"s":0,"d":{}}')
    with pytest.raises(StoreBroken, match="format 2"):
        await accounts.attach(A, [came(ALICE, 1)], NOW_MS)
    with pytest.raises(UnknownFormat):
        await read(accounts)
    with pytest.raises(UnknownFormat):
        parse_record(b'{"v":2}')


async def test_a_server_that_is_away_is_told_as_such() -> None:
    client = redis.client("redis://127.0.0.1:1/0")
    with pytest.raises(StoreAway):
        await AccountStore(Shards(client), keep_ms=KEEP_MS).read([ALICE])
    await client.aclose()


def test_parts_are_those_of_the_contract() -> None:
    from chatmesh.v1 import types_pb2

    assert {state.value for state in State} == set(types_pb2.PresenceState.values())
    assert (PHONE, DESKTOP) == (types_pb2.DEVICE_KIND_PHONE, types_pb2.DEVICE_KIND_DESKTOP)
