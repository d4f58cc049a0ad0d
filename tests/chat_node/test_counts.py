"""Unread counts for pongs: one read for many accounts, an answer for every ping."""

from collections.abc import Sequence

from chat_svc.core.session import AccountState
from chat_svc.node.counts import MAX_ACCOUNTS, Counts
from chat_svc.node.live_session import LiveSession
from chat_svc.store.devices import Head
from tests.chat_node import parts
from tests.chat_node.parts import StepClock


class Store:
    """Accounts whose unread count is their number; may be away."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.good_reads = 1 << 30

    async def unread_totals_of(self, accounts: Sequence[int]) -> dict[int, tuple[int, int]]:
        self.asked.append(len(accounts))
        if self.good_reads < len(self.asked):
            raise ConnectionError
        return {account: (account, 1) for account in accounts}

    async def heads(self, accounts: Sequence[int]) -> dict[int, Head]:
        return {account: Head(9, 9, 1, 7) for account in accounts}


def pongs(session: LiveSession) -> list[tuple[int, int, int]]:
    """(nonce, unread, version) of the pongs that wait."""
    return [
        (pong.nonce, pong.unread, pong.account_version)
        for frame in parts.drain(session)
        for pong in frame.pong
    ]


async def told(store: Store, accounts: int, devices: int) -> list[LiveSession]:
    """Sessions of so many accounts with so many devices each, all of which have asked."""
    clock = StepClock()
    counts = Counts(store, store, clock)
    sessions = [
        parts.live_session(account, f"d{device}", clock=clock)
        for account in range(1, accounts + 1)
        for device in range(devices)
    ]
    for nonce, session in enumerate(sessions, 1):
        session.machine.account = AccountState(3, 0, 0)
        counts.wanted(session, nonce)
    loop = await parts.running(counts.run)
    await parts.until(lambda: all(session.machine.frames for session in sessions))
    await parts.stop(loop)
    return sessions


async def test_all_who_asked_are_read_at_once() -> None:
    store = Store()
    sessions = await told(store, accounts=5, devices=2)
    assert store.asked == [5]
    for nonce, session in enumerate(sessions, 1):
        assert pongs(session) == [(nonce, session.account, 7)]


async def test_a_read_is_bounded() -> None:
    store = Store()
    await told(store, accounts=MAX_ACCOUNTS + 1, devices=1)
    assert store.asked == [MAX_ACCOUNTS, 1]


async def test_those_that_were_not_read_are_answered_with_what_was_known_once() -> None:
    store = Store()
    store.good_reads = 1
    sessions = await told(store, accounts=MAX_ACCOUNTS + 1, devices=1)
    assert pongs(sessions[0]) == [(1, 1, 7)]
    assert pongs(sessions[-1]) == [(MAX_ACCOUNTS + 1, 0, 3)]
