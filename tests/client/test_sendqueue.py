"""Order and bookkeeping of unanswered messages."""

from chatmesh.client._sendqueue import Outgoing, SendQueue
from chatmesh.v1.types_pb2 import OutgoingMessage


def outgoing(number: int, group: int = 0, size: int = 0) -> Outgoing:
    key = number.to_bytes(16, "big")
    message = OutgoingMessage(idempotency_key=key)
    message.content.text.body = "x" * size
    return Outgoing(key, message, group)


def keys(messages: list[Outgoing]) -> list[int]:
    return [int.from_bytes(one.key, "big") for one in messages]


def take(queue: SendQueue, flight: int = 100, messages: int = 100, size: int = 10_000) -> list[int]:
    return keys(queue.take(max_in_flight=flight, max_messages=messages, max_bytes=size))


def test_first_order_survives_a_lost_session() -> None:
    queue = SendQueue()
    queue.offer([outgoing(n) for n in range(5)])
    assert take(queue, messages=3) == [0, 1, 2]
    queue.settle((1).to_bytes(16, "big"))
    queue.session_lost()
    queue.offer([outgoing(5)])
    assert take(queue) == [0, 2, 3, 4, 5]


def test_limits_bound_a_frame() -> None:
    queue = SendQueue()
    queue.offer([outgoing(n, size=100) for n in range(5)])
    assert take(queue, flight=2) == [0, 1]
    assert take(queue, flight=2) == []
    assert take(queue, size=300) == [2, 3]
    assert take(queue, size=1) == [4], "one goes even when it is too large"


def test_a_group_has_a_frame_of_its_own() -> None:
    queue = SendQueue()
    queue.offer([outgoing(0), outgoing(1, 9), outgoing(2, 9), outgoing(3, 8), outgoing(4)])
    assert [take(queue) for _ in range(4)] == [[0], [1, 2], [3], [4]]


def test_later_waits_at_its_old_place() -> None:
    queue = SendQueue()
    queue.offer([outgoing(n) for n in range(4)])
    take(queue, messages=3)
    queue.again((0).to_bytes(16, "big"))
    queue.again((1).to_bytes(16, "big"))
    assert take(queue) == [0, 1, 3]


def test_each_key_once() -> None:
    queue = SendQueue()
    queue.offer([outgoing(1), outgoing(1)])
    assert len(queue) == 1
    first = outgoing(1)
    assert queue.settle(first.key) is not None
    assert queue.settle(first.key) is None
    assert (len(queue), queue.size_bytes, queue.is_waiting) == (0, 0, False)
