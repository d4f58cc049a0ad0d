"""Coalescing broadcast."""

import asyncio

import pytest

from chatmesh.client._hub import Room, _later_receipt
from chatmesh.client._topic import MAX_BUFFERED, Topic
from chatmesh.client._values import Receipt


async def test_a_slow_reader_sees_the_newest_of_each_key() -> None:
    topic: Topic[tuple[str, int]] = Topic(lambda value: value[0])
    reader = topic.subscribe()
    topic.publish([("a", 1), ("b", 1), ("a", 2)])
    assert [await anext(reader), await anext(reader)] == [("b", 1), ("a", 2)]


async def test_a_late_reader_gets_what_is_kept() -> None:
    topic: Topic[tuple[str, int]] = Topic(lambda value: value[0], keep=9)
    topic.publish([("a", 1), ("a", 2)])
    assert await anext(topic.subscribe()) == ("a", 2)


async def test_readers_end_with_the_client_after_what_waits() -> None:
    topic: Topic[int] = Topic()
    good, bad = topic.subscribe(), topic.subscribe()
    topic.publish([1])
    good.close()
    assert [value async for value in good] == [1]
    waiting = asyncio.create_task(anext(bad))
    assert await waiting == 1
    waiting = asyncio.create_task(anext(bad))
    await asyncio.sleep(0)
    topic.end(RuntimeError("over"))
    with pytest.raises(RuntimeError, match="over"):
        await waiting
    with pytest.raises(RuntimeError, match="over"):
        await anext(topic.subscribe())


async def test_buffers_are_bounded() -> None:
    topic: Topic[int] = Topic(keep=5)
    reader = topic.subscribe()
    topic.publish(range(MAX_BUFFERED + 50))
    late = topic.subscribe()
    topic.end(None)
    assert len([value async for value in reader]) == MAX_BUFFERED
    assert [value async for value in late] == list(range(MAX_BUFFERED + 45, MAX_BUFFERED + 50))


def test_receipts_merge_to_the_higher_marks() -> None:
    delivered, read = Receipt(7, "bob", 5, 0), Receipt(7, "bob", 0, 3)
    assert _later_receipt(delivered, read) == Receipt(7, "bob", 5, 3)


async def test_room_is_given_by_order_of_arrival() -> None:
    room, entered = Room(2), list[int]()

    async def enter(number: int, count: int) -> None:
        await room.enter(count)
        entered.append(number)

    tasks = [asyncio.create_task(enter(number, count)) for number, count in enumerate((1, 2, 1, 1))]
    await asyncio.sleep(0)
    assert entered == [0], "the second wants two places; nobody overtakes it"
    tasks[1].cancel()
    await asyncio.wait({tasks[1]})
    room.leave(1)
    await asyncio.wait({tasks[2], tasks[3]})
    assert entered == [0, 2, 3]
