"""One replica between recording peers: delivery, push, waiting, settling. Real Valkey."""

from __future__ import annotations

import redis.asyncio

from chatmesh.digest import settle_digest
from chatmesh.mesh.v1.hint_pb2 import HintBatch, Signal
from tests.runtime import stores
from tests.sync.peers import Peers
from tests.sync.replica import Replicas, hint

ALICE, BOB, CAROL, DAVE = 101, 102, 103, 104


async def test_online_is_delivered_and_the_source_is_told(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    source = await replicas.source(await replicas.start(valkey.url), sender)
    await source.enqueue(
        source.batch(1, [hint(BOB, 5), hint(BOB, 6)]), source.batch(2, [hint(BOB, 7)])
    )
    await source.until_accepted(1, 2)
    await source.until_done(1, 2)
    assert receiver.places() == [(BOB, 5), (BOB, 6), (BOB, 7)]
    assert receiver.hints[0].entry == b"entry 102/5"
    assert peers.push.targets == []


async def test_offline_is_pushed_and_what_cannot_be_is_settled_at_once(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender = await peers.node()
    source = await replicas.source(await replicas.start(valkey.url), sender)
    await source.enqueue(
        source.batch(1, [hint(BOB, 5, pushable=True, message_id=55), hint(CAROL, 9)])
    )
    await source.until_done(1)
    [target] = peers.push.targets
    assert (target.account_id, target.timeline_seq, target.message_id) == (BOB, 5, 55)
    assert target.delay_ms == 0
    assert list(target.except_device_ids) == []
    await source.enqueue(source.batch(2, [hint(CAROL, 10)]))
    await source.until_done(2)
    assert len(peers.push.targets) == 1


async def test_positions_of_one_account_are_one_push(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender = await peers.node()
    source = await replicas.source(await replicas.start(valkey.url), sender)
    hints = [hint(BOB, seq, pushable=True, message_id=seq) for seq in (3, 7, 5)]
    await source.enqueue(source.batch(1, hints))
    await source.until_done(1)
    [target] = peers.push.targets
    assert (target.timeline_seq, target.message_id) == (7, 7)


async def test_devices_without_a_session_are_pushed_although_another_is_online(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, first, second = await peers.node(), await peers.node(), await peers.node()
    peers.presence.online(BOB, first, "phone")
    peers.presence.online(BOB, second, "laptop")
    source = await replicas.source(await replicas.start(valkey.url), sender)
    await source.enqueue(source.batch(1, [hint(BOB, 5, pushable=True)]))
    await source.until_done(1)
    assert first.places() == second.places() == [(BOB, 5)]
    [target] = peers.push.targets
    assert set(target.except_device_ids) == {"phone", "laptop"}


async def test_no_session_is_looked_up_again_and_found_elsewhere(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, old, new = await peers.node(), await peers.node(), await peers.node()
    old.absent.add(BOB)
    old.answering.clear()
    peers.presence.online(BOB, old)
    source = await replicas.source(await replicas.start(valkey.url), sender)
    await source.enqueue(source.batch(1, [hint(BOB, 5)]))
    await old.until(lambda: bool(old.hints))
    peers.presence.routes[BOB] = []
    peers.presence.online(BOB, new)
    old.answering.set()
    await source.until_done(1)
    assert new.places() == [(BOB, 5)]
    assert old.places() == [(BOB, 5)]
    assert peers.push.targets == []


async def test_no_session_twice_is_pushed_after_a_delay(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    receiver.absent |= {BOB, CAROL}
    peers.presence.online(BOB, receiver, "phone")
    peers.presence.online(CAROL, receiver, "phone")
    source = await replicas.source(await replicas.start(valkey.url), sender)
    await source.enqueue(source.batch(1, [hint(BOB, 5, pushable=True), hint(CAROL, 6)]))
    await source.until_done(1)
    assert sorted(receiver.places()) == [(BOB, 5), (BOB, 5), (CAROL, 6), (CAROL, 6)]
    delayed = [target for target in peers.push.of(BOB) if target.delay_ms]
    assert [list(target.device_ids) for target in delayed] == [["phone"]]
    assert delayed[0].delay_ms == 5_000
    assert peers.push.of(CAROL) == []


async def test_unknown_waits_and_pushes_nobody(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.unknown = True
    peers.presence.online(CAROL, receiver)
    source = await replicas.source(await replicas.start(valkey.url), sender)
    await source.enqueue(
        source.batch(1, [hint(BOB, 5, pushable=True), hint(CAROL, 8, pushable=True)])
    )
    # asked again and again; what is known already is used
    await peers.presence.until(lambda: len(peers.presence.asked) >= 4)
    assert receiver.places() == [(CAROL, 8)]
    assert peers.push.targets == []
    assert sender.done == []
    # the nodes have attached their sessions again
    peers.presence.online(BOB, receiver)
    peers.presence.unknown = False
    await source.until_done(1)
    assert sorted(receiver.places()) == [(BOB, 5), (CAROL, 8)]
    assert {tuple(target.except_device_ids) for target in peers.push.targets} == {("phone",)}


async def test_a_node_that_does_not_answer_is_given_up(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    """Its hints become delayed pushes; the others are not held back, by events and not by time."""
    sender, slow, quick = await peers.node(), await peers.node(), await peers.node()
    slow.answering.clear()
    peers.presence.online(BOB, slow, "phone")
    peers.presence.online(CAROL, quick)
    peers.presence.online(DAVE, slow)
    replica = await replicas.start(valkey.url, sync_answer_seconds=0.5)
    source = await replicas.source(replica, sender)
    await source.enqueue(source.batch(1, [hint(BOB, 5, pushable=True), hint(DAVE, 1)]))
    await slow.until(lambda: bool(slow.hints))
    for batch_id in range(2, 12):
        await source.enqueue(source.batch(batch_id, [hint(CAROL, batch_id)]))
        await source.until_done(batch_id)
    await source.until_done(1)
    assert [target.delay_ms for target in peers.push.of(BOB) if target.device_ids] == [5_000]
    assert peers.push.of(DAVE) == []
    await slow.until(lambda: slow.ended_streams == 1)
    assert quick.streams == 1
    # it answers again: a new stream
    slow.answering.set()
    await source.enqueue(source.batch(20, [hint(BOB, 6)]))
    await source.until_done(20)
    assert slow.streams == 2


async def test_a_dead_node_is_no_obstacle(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, dead = await peers.node(), await peers.node()
    peers.presence.online(BOB, dead, "phone")
    await dead.stop()
    replica = await replicas.start(valkey.url, sync_answer_seconds=0.5)
    source = await replicas.source(replica, sender)
    await source.enqueue(source.batch(1, [hint(BOB, 5, pushable=True)]))
    await source.until_done(1)
    assert [list(target.device_ids) for target in peers.push.of(BOB) if target.delay_ms] == [
        ["phone"]
    ]


async def test_a_node_that_restarts_its_stream_gets_what_was_open_again(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    receiver.answering.clear()
    peers.presence.online(BOB, receiver)
    source = await replicas.source(await replicas.start(valkey.url), sender)
    await source.enqueue(source.batch(1, [hint(BOB, 5)]))
    await receiver.until(lambda: len(receiver.hints) == 1)
    await receiver.stop()
    receiver.answering.set()
    await receiver.start()
    await source.until_done(1)
    assert receiver.places() == [(BOB, 5), (BOB, 5)]


async def test_signals_are_routed_and_neither_settled_nor_pushed(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    source = await replicas.source(await replicas.start(valkey.url), sender)
    typing = Signal(account_id=BOB, frame=b"typing", coalesce_key=b"t")
    nobody = Signal(account_id=CAROL, frame=b"lost")
    await source.enqueue(source.batch(0, signals=[typing, nobody]))
    await receiver.until(lambda: bool(receiver.signals))
    assert [signal.frame for signal in receiver.signals] == [b"typing"]
    await source.enqueue(source.batch(7, [hint(BOB, 1)], [typing]))
    await source.until_done(7)
    await receiver.until(lambda: len(receiver.signals) == 2)
    assert sender.done == [7]
    assert source.accepted == [7]
    assert peers.push.targets == []


async def test_while_presence_does_not_know_news_wait_and_gossip_does_not(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    """That contacts changed is told to the nodes that turn up after Redis was emptied."""
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.unknown = True
    source = await replicas.source(await replicas.start(valkey.url), sender)
    typing = Signal(account_id=BOB, frame=b"typing", coalesce_key=b"t")
    news = [Signal(account_id=BOB, coalesce_key=b"c", node_id=number) for number in (1, 2)]
    await source.enqueue(source.batch(0, signals=[news[0], typing]))
    await source.enqueue(source.batch(0, signals=[news[1]]))
    await peers.presence.until(lambda: len(peers.presence.asked) >= 4)
    peers.presence.online(BOB, receiver)
    peers.presence.unknown = False
    await receiver.until(lambda: bool(receiver.signals))
    await source.enqueue(source.batch(3, [hint(BOB, 1)]))
    await source.until_done(3)
    assert receiver.signals == news[1:], "the newest of a key, once"


async def test_presence_away_is_waited_for(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    replica = await replicas.start(valkey.url)
    source = await replicas.source(replica, sender)
    await peers.presence.stop()
    await source.enqueue(source.batch(1, [hint(BOB, 5)]))
    await source.until_accepted(1)
    await peers.presence.start()
    await source.until_done(1)
    assert replica.lifecycle.readiness.is_ready


async def test_push_away_holds_back_nobody_online(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    source = await replicas.source(await replicas.start(valkey.url), sender)
    await peers.push.stop()
    await source.enqueue(source.batch(1, [hint(CAROL, 5, pushable=True)]))
    await source.enqueue(source.batch(2, [hint(BOB, 6)]))
    await source.until_done(2)
    assert 1 not in sender.done
    await peers.push.start()
    await source.until_done(1)
    assert [target.timeline_seq for target in peers.push.of(CAROL)] == [5]


async def test_memory_is_bounded_by_forgetting_what_waits_longest(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    replica = await replicas.start(valkey.url, sync_memory_mib=8)
    source = await replicas.source(replica, sender)
    await peers.push.stop()
    entry = b"x" * 1_000_000
    for number in range(1, 21):
        await source.enqueue(
            source.batch(number, [hint(CAROL, number, pushable=True, entry=entry)])
        )
        await source.enqueue(source.batch(100 + number, [hint(BOB, number)]))
        await source.until_done(100 + number)
    assert replica.parts.worker._ledger.open_bytes <= 6 << 20
    await peers.push.start()
    await source.until_done(20)
    assert 1 not in sender.done  # its outbox row sends it again


async def test_poison_becomes_dead_letters_and_blocks_nothing(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    peers.push.poison.add(DAVE)
    replica = await replicas.start(valkey.url)
    source = await replicas.source(replica, sender)
    client = redis.asyncio.Redis.from_url(valkey.url)
    key = replica.parts.readers[0]._keys[0]
    await client.xadd(key, {b"b": b"\xff\xff\xff"})
    await client.xadd(key, {b"other": b"x"})
    await client.xadd(key, {b"b": HintBatch(format=99).SerializeToString()})
    await client.aclose()
    await source.enqueue(
        source.batch(
            1,
            [
                hint(BOB, 5),
                hint(0, 6, pushable=True),
                hint(1 << 63, 7),
                hint(DAVE, 8, pushable=True),
                hint(CAROL, 9, pushable=True),
            ],
        )
    )
    await source.until_done(1)
    await peers.push.until(lambda: len(peers.push.letters) == 6)
    assert receiver.places() == [(BOB, 5)]
    assert [target.account_id for target in peers.push.targets] == [CAROL]
    reasons = sorted(letter.reason for letter in peers.push.letters)
    assert reasons == [
        "hint without an account or position",
        "hint without an account or position",
        "push refused: INVALID_FIELD",
        "queue entry of format 99",
        "queue entry without a batch",
        "undecodable queue entry",
    ]
    assert {letter.origin for letter in peers.push.letters} == {"sync"}
    hints = [letter for letter in peers.push.letters if "entry" not in letter.reason]
    assert {(letter.batch_id, letter.node_id) for letter in hints} == {(1, sender.node_id)}


async def test_an_account_that_presence_refuses_blocks_nothing(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    peers.presence.poison.add(DAVE)
    source = await replicas.source(await replicas.start(valkey.url), sender)
    await source.enqueue(source.batch(1, [hint(BOB, 5), hint(DAVE, 6)]))
    await source.until_done(1)
    assert receiver.places() == [(BOB, 5)]
    assert [letter.account_id for letter in peers.push.letters] == [DAVE]


async def test_what_presence_said_is_believed_for_a_moment_and_absence_never(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    replica = await replicas.start(valkey.url, sync_route_cache_ms=1_000)
    replica.parts.routes._cache_seconds = 3_600  # not to depend on this machine's speed
    source = await replicas.source(replica, sender)
    for number in range(1, 4):
        await source.enqueue(source.batch(number, [hint(BOB, number), hint(CAROL, number)]))
        await source.until_done(number)
    assert peers.presence.asked == [[BOB, CAROL], [CAROL], [CAROL]]
    # a node's denial is believed more than memory
    receiver.absent.add(BOB)
    await source.enqueue(source.batch(9, [hint(BOB, 9)]))
    await source.until_done(9)
    assert peers.presence.asked[3:] == [[BOB]]


async def test_done_says_which_hints_were_settled(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    source = await replicas.source(await replicas.start(valkey.url), sender)
    await source.enqueue(source.batch(3, [hint(CAROL, 7, pushable=True), hint(BOB, 5)]))
    await source.until_done(3)
    assert sender.done_digests == {3: settle_digest(3, [(BOB, 5, False), (CAROL, 7, True)])}


async def test_a_forged_batch_is_told_as_what_it_is(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    """Whoever writes Redis names a batch of the node, with other hints or none: the node hears what
    was settled, not that its own batch was."""
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    source = await replicas.source(await replicas.start(valkey.url), sender)
    await source.enqueue(source.batch(1, [hint(BOB, 1)]))  # the node is known, its stream is open
    await source.until_done(1)
    empty, other = source.batch(8), source.batch(9, [hint(BOB, 2)])
    async with redis.asyncio.Redis.from_url(valkey.url) as client:
        (key, *_) = await client.keys("{sync:*")
        for forged in (empty, other):
            await client.xadd(key, {"b": forged.SerializeToString()})
    await source.until_done(9)
    assert 8 not in sender.done, "where nothing was settled nothing is done"
    assert sender.done_digests[9] == settle_digest(9, [(BOB, 2, False)])
