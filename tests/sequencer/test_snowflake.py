"""Ids stay unique and rising whatever the clocks do: properties and a model of takeovers."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chatmesh.ids import DEFAULT_LAYOUT, PROJECT_EPOCH_MS, SnowflakeLayout
from sequencer_svc.snowflake import Range, Snowflake, WindowFullError, WindowOverError

T0 = PROJECT_EPOCH_MS + 1_000_000
TINY = SnowflakeLayout(57, 2, 4)  # 4 workers, 16 ids a millisecond


def ids_of(ranges: list[Range]) -> list[int]:
    return [given.first + number for given in ranges for number in range(given.count)]


def snowflake(
    layout: SnowflakeLayout = TINY, *, length_ms: int = 100, start_ms: int = T0, time_ms: int = T0
) -> Snowflake:
    return Snowflake(layout, 1, start_ms=start_ms, end_ms=start_ms + length_ms, time_ms=time_ms)


def test_ids_of_one_millisecond_are_one_range() -> None:
    ids = snowflake(DEFAULT_LAYOUT)
    assert ids.take(3, 0) == [Range(DEFAULT_LAYOUT.encode(T0, 1, 0), 3)]
    assert ids.take(2, 0) == [Range(DEFAULT_LAYOUT.encode(T0, 1, 3), 2)]
    assert ids.take(1, 5) == [Range(DEFAULT_LAYOUT.encode(T0 + 5, 1, 0), 1)]


def test_a_full_millisecond_borrows_the_next() -> None:
    ids = snowflake()
    assert ids.take(20, 0) == [
        Range(TINY.encode(T0, 1, 0), 16),
        Range(TINY.encode(T0 + 1, 1, 0), 4),
    ]
    assert ids.position_ms == T0 + 2
    # time catches up with what was borrowed
    assert ids.take(1, 1) == [Range(TINY.encode(T0 + 1, 1, 4), 1)]


def test_borrowing_ends_at_the_window_and_takes_nothing() -> None:
    ids = snowflake(length_ms=2)
    ids.take(30, 0)
    with pytest.raises(WindowFullError):
        ids.take(3, 0)
    assert [given.count for given in ids.take(2, 0)] == [2]
    with pytest.raises(WindowFullError):
        ids.take(1, 0)
    ids.extend(T0 + 3, T0)
    assert ids_of(ids.take(1, 0)) == [TINY.encode(T0 + 2, 1, 0)]


def test_the_window_is_over_by_its_time() -> None:
    ids = snowflake(length_ms=10)
    ids.take(1, 9)
    with pytest.raises(WindowOverError):
        ids.take(1, 10)
    assert ids.is_over(10)
    assert ids.position_ms == T0 + 10


def test_a_successor_may_begin_ahead_of_time() -> None:
    ids = snowflake(start_ms=T0 + 800, time_ms=T0)
    assert TINY.decode(ids_of(ids.take(1, 0))[0]).created_at_ms == T0 + 800
    assert ids.time_ms(0) == T0


def test_position_without_ids_is_the_start() -> None:
    assert snowflake().position_ms == T0


@pytest.mark.parametrize("worker", [-1, 4])
def test_a_worker_must_fit(worker: int) -> None:
    with pytest.raises(ValueError, match="worker"):
        Snowflake(TINY, worker, start_ms=T0, end_ms=T0 + 1, time_ms=T0)


@pytest.mark.parametrize(
    ("start", "end"),
    [(T0, T0), (T0 + 1, T0), (0, T0), (T0, TINY.end_ms + 1)],
)
def test_a_window_must_fit(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="window"):
        Snowflake(TINY, 0, start_ms=start, end_ms=end, time_ms=T0)


def test_a_window_does_not_shrink() -> None:
    ids = snowflake()
    with pytest.raises(ValueError, match="cannot become"):
        ids.extend(T0 + 99, T0)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.integers(1, 40), st.integers(-50, 300)),
            st.tuples(st.just("extend"), st.integers(0, 80), st.integers(-100, 100)),
        ),
        max_size=60,
    )
)
def test_whatever_elapsed_says_ids_rise_and_stay_in_the_window(
    steps: list[tuple[str, int, int]],
) -> None:
    """Elapsed readings jump, repeat and even fall; extensions bring times that fell, too."""
    ids = snowflake(length_ms=20)
    last = -1
    for kind, number, shift in steps:
        if kind == "extend":
            ids.extend(ids.end_ms + number, max(0, T0 + shift))
            continue
        try:
            taken = ids_of(ids.take(number, shift))
        except (WindowFullError, WindowOverError):
            continue
        assert len(taken) == number
        for value in taken:
            assert value > last
            last = value
            decoded = TINY.decode(value)
            assert decoded.worker == 1
            assert T0 <= decoded.created_at_ms < ids.end_ms
            assert decoded.created_at_ms < ids.position_ms


@given(
    st.integers(0, (1 << 41) - 1),
    st.integers(0, DEFAULT_LAYOUT.workers - 1),
    st.integers(0, DEFAULT_LAYOUT.per_ms - 1),
)
def test_decode_undoes_encode(ticks: int, worker: int, sequence: int) -> None:
    value = DEFAULT_LAYOUT.encode(PROJECT_EPOCH_MS + ticks, worker, sequence)
    decoded = DEFAULT_LAYOUT.decode(value)
    assert (decoded.created_at_ms, decoded.worker, decoded.sequence) == (
        PROJECT_EPOCH_MS + ticks,
        worker,
        sequence,
    )


@dataclass
class Row:
    """A row of sequencer.worker, as its statements treat it."""

    end_ms: int = 0
    epoch: int = 0
    held: bool = False


@dataclass
class Process:
    """A sequencer: its own boot clock, which may stand still while others go on (SIGSTOP)."""

    boot_ms: int = 0
    ids: Snowflake | None = None
    epoch: int = 0
    anchor_ms: int = 0
    # A renewal's answer that has not arrived yet: (new end, database's time, boot time when asked)
    answer: tuple[int, int, int] | None = None
    given: dict[int, int] = field(default_factory=dict)  # worker → its last id


WINDOW_MS, AHEAD_MS, PROCESSES = 20, 10, 3


class Takeovers(RuleBasedStateMachine):
    """Processes with lying clocks over one database, whose clock steps as well."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = {0: Row()}  # ids of two workers differ by their bits: one shows all
        self.database_ms = T0
        self.processes = [Process() for _ in range(PROCESSES)]
        self.all_ids: set[int] = set()
        self.last_of_worker: dict[int, int] = {}

    @rule(number=st.integers(0, PROCESSES - 1))
    def claim(self, number: int) -> None:
        process = self.processes[number]
        if process.ids is not None:
            return
        free = [
            (row.end_ms, worker)
            for worker, row in self.rows.items()
            if (not row.held or row.end_ms <= self.database_ms)
            and row.end_ms <= self.database_ms + AHEAD_MS
        ]
        if not free:
            return
        _, worker = min(free)
        row = self.rows[worker]
        start = max(row.end_ms, self.database_ms)
        row.epoch += 1
        row.held, row.end_ms = True, start + WINDOW_MS
        process.ids = Snowflake(
            TINY, worker, start_ms=start, end_ms=row.end_ms, time_ms=self.database_ms
        )
        process.epoch, process.anchor_ms, process.answer = row.epoch, process.boot_ms, None

    @rule(number=st.integers(0, PROCESSES - 1), late=st.booleans())
    def renew(self, number: int, late: bool) -> None:
        process = self.processes[number]
        if process.ids is None:
            return
        row = self.rows[process.ids.worker]
        if row.epoch != process.epoch:
            process.ids = None
            return
        row.end_ms = max(row.end_ms, self.database_ms + WINDOW_MS)
        process.answer = (row.end_ms, self.database_ms, process.boot_ms)
        if not late:
            self.hear(number)

    @rule(number=st.integers(0, PROCESSES - 1))
    def hear(self, number: int) -> None:
        """The answer of a renewal arrives, perhaps after a pause of any length."""
        process = self.processes[number]
        if process.ids is not None and process.answer is not None:
            end_ms, time_ms, asked_ms = process.answer
            process.ids.extend(end_ms, time_ms)
            process.anchor_ms, process.answer = asked_ms, None

    @rule(counts=st.lists(st.integers(1, 250), min_size=PROCESSES, max_size=PROCESSES))
    def all_take(self, counts: list[int]) -> None:
        for process, count in zip(self.processes, counts, strict=True):
            self.take(process, count)

    def take(self, process: Process, count: int) -> None:
        if process.ids is None:
            return
        try:
            ranges = process.ids.take(count, process.boot_ms - process.anchor_ms)
        except (WindowFullError, WindowOverError):
            return
        worker = process.ids.worker
        for value in ids_of(ranges):
            assert value not in self.all_ids
            assert value > process.given.get(worker, -1)
            self.all_ids.add(value)
            process.given[worker] = value

    @rule(number=st.integers(0, PROCESSES - 1))
    def give_back(self, number: int) -> None:
        process = self.processes[number]
        if process.ids is None:
            return
        row = self.rows[process.ids.worker]
        if row.epoch == process.epoch:
            row.held, row.end_ms = False, process.ids.position_ms
        process.ids = None

    @rule(number=st.integers(0, PROCESSES - 1))
    def crash(self, number: int) -> None:
        self.processes[number] = Process(boot_ms=self.processes[number].boot_ms)

    @rule(ms=st.integers(1, 40), stopped=st.sets(st.integers(0, PROCESSES - 1)))
    def pass_time(self, ms: int, stopped: set[int]) -> None:
        """Boot clocks go on during a stop; that a stalled one stands still is worse than real."""
        self.database_ms += ms
        for number, process in enumerate(self.processes):
            if number not in stopped:
                process.boot_ms += ms

    @rule(ms=st.integers(-30, 30))
    def step_database_clock(self, ms: int) -> None:
        self.database_ms = max(T0 - 1000, self.database_ms + ms)

    @precondition(lambda self: self.all_ids)
    @invariant()
    def windows_cover_what_was_given(self) -> None:
        """No worker's next holder can begin below an id that was given."""
        newest: dict[int, int] = {}
        for value in self.all_ids:
            decoded = TINY.decode(value)
            newest[decoded.worker] = max(newest.get(decoded.worker, 0), decoded.created_at_ms)
        for worker, created_at_ms in newest.items():
            assert created_at_ms < self.rows[worker].end_ms


@pytest.mark.parametrize("seed", range(20))
def test_long_random_runs(seed: int) -> None:
    """The same model without shrinking, a thousand steps at a time: rare meetings happen."""
    chance = random.Random(seed)
    model = Takeovers()
    for _ in range(1_000):
        number = chance.randrange(PROCESSES)
        match chance.randrange(10):
            case 0 | 1:
                model.claim(number=number)
            case 2 | 3:
                model.renew(number=number, late=chance.random() < 0.5)
            case 4:
                model.hear(number=number)
            case 5:
                model.all_take(counts=[chance.randint(1, 250) for _ in range(PROCESSES)])
            case 6:
                model.give_back(number=number)
            case 7:
                model.crash(number=number)
            case 8:
                stopped = {other for other in range(PROCESSES) if chance.random() < 0.3}
                model.pass_time(ms=chance.randint(1, 20), stopped=stopped)
            case _:
                model.step_database_clock(ms=chance.randint(-20, 15))
    model.windows_cover_what_was_given()
    assert sum(row.epoch for row in model.rows.values()) > 10


TestTakeovers = Takeovers.TestCase
TestTakeovers.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
