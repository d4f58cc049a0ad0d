"""The node's loops over the store: retention, disappearing messages, partitions of keys."""

from __future__ import annotations

from chat_svc.core.limits import Limits
from chat_svc.node import partitions, retention
from chat_svc.node.partitions import KeyPartitions
from chat_svc.node.retention import MAX_ROWS, Retention
from chat_svc.store.retention import RetentionStep
from tests.chat_node import parts
from tests.chat_node.parts import StepClock


class Rows:
    """A store that answers from a list, then is at rest; an exception is raised."""

    def __init__(self, clock: StepClock, answers: list[object], rest: object) -> None:
        self._clock = clock
        self._answers = answers
        self._rest = rest
        self.asked: list[dict[str, int]] = []
        self.times: list[float] = []

    def _next(self) -> object:
        self.times.append(self._clock.now)
        answer = self._answers.pop(0) if self._answers else self._rest
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def step(self, **asked: int) -> RetentionStep:
        self.asked.append(asked)
        answer = self._next()
        assert isinstance(answer, RetentionStep)
        return answer

    async def expire(self, max_rows: int) -> int:
        answer = self._next()
        assert isinstance(answer, int)
        return answer

    async def roll(self) -> int:
        return await self.expire(0)

    @property
    def pauses(self) -> list[float]:
        """Between questions."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


async def test_retention_steps_on_while_there_is_more_and_rests_then() -> None:
    clock = StepClock()
    more, over = RetentionStep(5, 0, False), RetentionStep(0, 0, True)
    rows = Rows(clock, [more, ConnectionError(), more, over], over)
    limits = Limits(retention_days=9, retention_entries=100)
    loop = await parts.running(Retention(rows, limits, clock).run)
    await parts.until(lambda: len(rows.times) > 5)
    await parts.stop(loop)
    asked = rows.asked[0]
    assert (asked["max_age_days"], asked["max_entries"]) == (9, 100)
    assert (asked["max_rows"], asked["period_ms"]) == (MAX_ROWS, retention.PERIOD_MS)
    long = retention.LOOK_SECONDS / 2
    assert [pause >= long for pause in rows.pauses[:4]] == [False, True, False, True]


async def test_expiry_goes_on_at_once_while_there_is_more() -> None:
    clock = StepClock()
    rows = Rows(clock, [MAX_ROWS, ConnectionError(), 3], 0)
    loop = await parts.running(Retention(rows, Limits(), clock).run_expiry)
    await parts.until(lambda: len(rows.times) > 4)
    await parts.stop(loop)
    long = retention.EXPIRY_SECONDS / 2
    assert [pause >= long for pause in rows.pauses[:3]] == [False, True, True]


async def test_partitions_are_rolled_again_and_again_whatever_happens() -> None:
    clock = StepClock()
    rows = Rows(clock, [3, ConnectionError(), 0], 0)
    loop = await parts.running(KeyPartitions(rows.roll, clock).run)
    await parts.until(lambda: len(rows.times) > 4)
    await parts.stop(loop)
    assert min(rows.pauses) >= partitions.PERIOD_SECONDS / 2
    assert max(rows.pauses) <= partitions.PERIOD_SECONDS * 2
