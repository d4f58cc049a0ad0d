"""Watches against a small model of a watching node, with a virtual clock."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chatmesh.digest import mix_version
from presence_svc.merge import Fact, State, Wish
from presence_svc.watch import Counters, Notice, Reading, Watches

DEBOUNCE = 3.0
ONLINE, AWAY = Fact(State.ONLINE, (1,)), Fact(State.AWAY, (1,))
OFFLINE, UNKNOWN = Fact(State.OFFLINE), Fact(State.UNKNOWN)


class Node:
    """What a chat node makes of a Watch stream."""

    def __init__(self, watches: Watches) -> None:
        self.watches = watches
        self.woken = 0
        self.stream = watches.open(self._wake)
        self.facts: dict[int, Notice] = {}

    def _wake(self) -> None:
        self.woken += 1

    def take(self, limit: int = 1_000) -> list[State]:
        notices = self.watches.take(self.stream, limit)
        self.facts |= {notice.account_id: notice for notice in notices}
        return [notice.fact.state for notice in notices]

    def remove(self, *accounts: int) -> None:
        self.watches.remove(self.stream, accounts)
        for account in accounts:
            self.facts.pop(account, None)

    @property
    def digest(self) -> int:
        digest = 0
        for account, notice in self.facts.items():
            digest ^= mix_version(account, notice.generation, notice.version)
        return digest


def reading(fact: Fact, version: int, generation: int = 1, *, lapsed: bool = False) -> Reading:
    return Reading(fact, generation, version, lapsed=lapsed)


def started(fact: Fact = ONLINE) -> tuple[Watches, Node]:
    watches = Watches(DEBOUNCE)
    node = Node(watches)
    watches.add(node.stream, [7])
    watches.observe(7, reading(fact, 1), 0)
    assert node.take() == [fact.state]
    return watches, node


def test_online_is_told_at_once() -> None:
    watches, node = started(OFFLINE)
    watches.observe(7, reading(ONLINE, 2), 1)
    assert node.take() == [State.ONLINE]
    assert watches.digest(node.stream) == node.digest


def test_a_reconnect_within_the_debounce_shows_nothing() -> None:
    watches, node = started()
    watches.observe(7, reading(OFFLINE, 2), 10)
    assert watches.next_release() == 13
    watches.observe(7, reading(ONLINE, 3), 12.9)
    watches.release(100)
    assert node.take() == []
    assert watches.next_release() is None


def test_offline_is_told_after_the_debounce_counted_from_the_first() -> None:
    watches, node = started()
    watches.observe(7, reading(OFFLINE, 2), 10)
    watches.observe(7, reading(OFFLINE, 3), 12)
    watches.release(12.9)
    assert node.take() == []
    watches.release(13)
    assert node.take() == [State.OFFLINE]
    assert node.facts[7].version == 3


def test_the_end_of_a_lease_is_told_at_once() -> None:
    watches, node = started()
    watches.observe(7, reading(OFFLINE, 2, lapsed=True), 10)
    assert node.take() == [State.OFFLINE]


def test_an_empty_start_takes_nobody_offline() -> None:
    watches, node = started()
    watches.observe(7, reading(OFFLINE, 2), 10)
    watches.observe(7, reading(UNKNOWN, 0, generation=2), 11)
    watches.release(100)
    assert node.take() == [], "not even the one that was held"
    watches.observe(7, reading(ONLINE, 1, generation=2), 12)
    assert node.take() == []
    watches.observe(7, reading(AWAY, 2, generation=2), 13)
    assert node.take() == [State.AWAY]
    assert node.facts[7].generation == 2


def test_a_snapshot_in_the_warm_up_is_unknown_and_then_settled() -> None:
    watches, node = started(UNKNOWN)
    watches.observe(7, reading(OFFLINE, 1), 10)
    assert node.take() == [State.OFFLINE]


def test_readings_that_overtake_each_other() -> None:
    watches, node = started()
    watches.observe(7, reading(AWAY, 3), 1)
    watches.observe(7, reading(ONLINE, 2), 1)
    assert node.take() == [State.AWAY]


def test_asking_again_is_answered_again() -> None:
    watches, node = started()
    watches.add(node.stream, [7])
    assert node.take() == [State.ONLINE]
    assert watches.digest(node.stream) == node.digest


def test_a_slow_node_is_told_the_newest_once() -> None:
    watches, node = started()
    for version in range(2, 100):
        watches.observe(7, reading(AWAY if version % 2 else ONLINE, version), version)
    assert node.take() == [State.AWAY]


def test_nobody_is_told_of_what_they_left() -> None:
    watches, node = started()
    other = Node(watches)
    watches.add(other.stream, [7, 8])
    node.remove(7)
    watches.observe(7, reading(AWAY, 2), 1)
    assert node.take() == []
    assert watches.digest(node.stream) == 0
    watches.close(other.stream)
    assert len(watches) == 0


def test_a_lost_wish_goes_on() -> None:
    watches, _ = started()
    hidden = Wish(State.INVISIBLE)
    watches.observe(7, Reading(Fact(State.INVISIBLE, (1,)), 1, 2, wish=hidden), 1)
    assert watches.wish_of(7, None) == hidden
    assert watches.wish_of(7, Wish()) == Wish()
    assert watches.wish_of(8, None) is None


class Watching(RuleBasedStateMachine):
    """Accounts change, readings are late or lost, nodes are slow: in the end all is true."""

    ACCOUNTS = range(1, 5)

    @initialize()
    def start(self) -> None:
        self.now = 0.0
        self.watches = Watches(DEBOUNCE)
        self.nodes = [Node(self.watches), Node(self.watches)]
        self.truth = dict.fromkeys(self.ACCOUNTS, OFFLINE)
        self.versions = dict.fromkeys(self.ACCOUNTS, 0)
        self.generation = 1
        self.unread: list[tuple[int, Reading]] = []

    def read(self, account: int) -> Reading:
        return reading(self.truth[account], self.versions[account], self.generation)

    @rule(account=st.sampled_from(ACCOUNTS), fact=st.sampled_from([ONLINE, AWAY, OFFLINE]))
    def change(self, account: int, fact: Fact) -> None:
        if fact != self.truth[account]:
            self.truth[account] = fact
            self.versions[account] += 1
        self.unread.append((account, self.read(account)))

    @rule(pick=st.randoms(use_true_random=False), lose=st.booleans())
    def deliver(self, pick: object, lose: bool) -> None:
        if self.unread:
            account, one = self.unread.pop(pick.randrange(len(self.unread)))  # type: ignore[attr-defined]
            if not lose:
                self.watches.observe(account, one, self.now)

    @rule(seconds=st.floats(0.1, 5))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.watches.release(self.now)

    @rule(node=st.integers(0, 1), accounts=st.sets(st.sampled_from(ACCOUNTS)))
    def add(self, node: int, accounts: set[int]) -> None:
        self.watches.add(self.nodes[node].stream, accounts)
        self.unread += [(account, self.read(account)) for account in accounts]

    @rule(node=st.integers(0, 1), accounts=st.sets(st.sampled_from(ACCOUNTS)))
    def remove(self, node: int, accounts: set[int]) -> None:
        self.nodes[node].remove(*accounts)

    @rule(node=st.integers(0, 1), limit=st.integers(1, 3))
    def take(self, node: int, limit: int) -> None:
        self.nodes[node].take(limit)

    @rule()
    def lose_everything(self) -> None:
        self.generation += 1
        self.unread.clear()
        self.truth = dict.fromkeys(self.ACCOUNTS, OFFLINE)
        self.versions = dict.fromkeys(self.ACCOUNTS, 0)

    @invariant()
    def digests_agree(self) -> None:
        for node in getattr(self, "nodes", []):
            assert self.watches.digest(node.stream) == node.digest

    @rule()
    def settle(self) -> None:
        """All is read once more and time passes: every node knows the truth."""
        self.unread.clear()
        for account in self.ACCOUNTS:
            self.watches.observe(account, self.read(account), self.now)
        self.now += DEBOUNCE
        self.watches.release(self.now)
        for node in self.nodes:
            node.take()
            for account, notice in node.facts.items():
                assert notice.fact == self.truth[account]


Watching.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_watching = Watching.TestCase


def test_counters_see_a_hole_at_the_next_notice() -> None:
    counters = Counters()
    assert not counters.notice(1, 5), "the first one says where the count is"
    assert not counters.notice(1, 6)
    assert counters.notice(1, 8)
    assert not counters.notice(1, 7), "late, and read already"
    assert not counters.notice(1, 9)
    assert not counters.notice(2, 1)


def test_counters_see_a_lost_last_notice_at_the_second_look() -> None:
    counters = Counters()
    assert counters.look({1: 5, 2: 0}) == []
    assert counters.look({1: 6, 2: 0}) == [], "it may be under way"
    assert counters.look({1: 6, 2: 0}) == [1]
    assert counters.look({1: 6, 2: 0}) == []


def test_counters_believe_a_notice_that_came_meanwhile() -> None:
    counters = Counters()
    counters.look({1: 5})
    counters.look({1: 6})
    assert not counters.notice(1, 6)
    assert counters.look({1: 7}) == []
    assert not counters.notice(1, 7)
    assert counters.look({1: 7}) == []


def test_counters_under_constant_change_ask_for_nothing() -> None:
    counters = Counters()
    for count in range(0, 1_000, 10):
        assert counters.look({1: count + 3}) == [], "the look is ahead of the notices"
        for one in range(count + 1, count + 11):
            assert not counters.notice(1, one)
