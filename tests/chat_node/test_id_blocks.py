"""Ids by blocks: one request serves many messages, an old block serves none."""

import asyncio

import pytest

from chat_svc.node.counters import NodeCounters
from chat_svc.node.id_blocks import BLOCK_IDS, LOW_WATER_IDS, MAX_AGE_SECONDS, IdBlocks
from chatmesh import errors
from chatmesh.mesh.v1.sequencer_pb2 import IdRange, NextIdsRequest, NextIdsResponse
from chatmesh.runtime.faults import Fault
from tests.chat_node import parts
from tests.chat_node.parts import StepClock


class Sequencer:
    """Gives rising ids in two ranges a request; may be away."""

    def __init__(self) -> None:
        self.next = 1
        self.requests: list[int] = []
        self.fails: list[Fault] = []
        self.refusal = ""

    async def call(self, request: NextIdsRequest, *, timeout_seconds: float) -> NextIdsResponse:
        await asyncio.sleep(0)
        self.requests.append(request.count)
        if self.fails:
            raise self.fails.pop(0)
        if self.refusal:
            return NextIdsResponse(error_code=14, error_reason=self.refusal)
        half = request.count // 2
        first, self.next = self.next, self.next + request.count + 1_000
        return NextIdsResponse(
            ranges=[
                IdRange(first=first, count=request.count - half),
                *([IdRange(first=first + 500_000, count=half)] if half else []),
            ]
        )


def blocks() -> tuple[IdBlocks, Sequencer, StepClock]:
    sequencer, clock = Sequencer(), StepClock()
    return IdBlocks(sequencer, clock, NodeCounters()), sequencer, clock


async def test_one_request_serves_a_whole_block() -> None:
    ids, sequencer, _ = blocks()
    taken = [number for _ in range(BLOCK_IDS // 2) for number in await ids.take(2)]
    assert len(set(taken)) == BLOCK_IDS
    assert taken == sorted(taken)
    assert sequencer.requests == [BLOCK_IDS]


async def test_an_old_block_is_thrown_away() -> None:
    ids, sequencer, clock = blocks()
    first = await ids.take(1)
    clock.now += MAX_AGE_SECONDS + 0.001
    assert ids.take_now(1) is None
    second = await ids.take(1)
    assert sequencer.requests == [BLOCK_IDS, BLOCK_IDS]
    assert second[0] > first[0] + BLOCK_IDS


async def test_a_large_batch_takes_what_it_needs() -> None:
    ids, sequencer, _ = blocks()
    assert len(set(await ids.take(700))) == 700
    assert sequencer.requests == [700]


async def test_the_next_block_is_fetched_before_the_last_one_ends() -> None:
    ids, sequencer, _ = blocks()
    loop = await parts.running(ids.run)
    await ids.take(BLOCK_IDS - LOW_WATER_IDS + 1)
    await parts.until(lambda: len(sequencer.requests) == 2)
    assert ids.take_now(BLOCK_IDS) is not None
    await parts.stop(loop)


async def test_messages_wait_while_the_sequencer_is_away() -> None:
    ids, sequencer, _ = blocks()
    sequencer.fails = [errors.NOT_SERVING(), errors.NOT_SERVING()]
    assert len(await ids.take(1)) == 1
    assert len(sequencer.requests) == 3


async def test_calls_are_told_that_it_is_away() -> None:
    ids, sequencer, _ = blocks()
    sequencer.fails = [errors.PEER_TIMEOUT()]
    with pytest.raises(Fault, match="PEER_TIMEOUT"):
        await ids.new_ids(2)
    sequencer.refusal = "NO_WORKER"
    with pytest.raises(Fault, match="NO_WORKER"):
        await ids.new_ids(2)
    sequencer.refusal = ""
    assert len(await ids.new_ids(5)) == 5


async def test_takers_share_one_request() -> None:
    ids, sequencer, _ = blocks()
    taken = await asyncio.gather(*(ids.take(3) for _ in range(20)))
    assert len({number for part in taken for number in part}) == 60
    assert sequencer.requests == [BLOCK_IDS]
