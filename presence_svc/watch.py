"""Watched accounts of one replica: what is shown of them, to whom, and what was missed.

`Watches` takes readings of accounts and decides what each watching stream is told: changes at
once, but an offline that the user may take back by reconnecting only after the debounce. What was
sent is kept per stream as an XOR digest, so that a lost notice, the last one too, is found.

Pure: time comes in as monotonic seconds; nothing is read or sent here. Bounded by the interest of
the streams: however often an account changes, it waits for a slow stream once.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from chatmesh.digest import mix_version
from presence_svc.merge import Fact, State, Wish


@dataclass(frozen=True, slots=True)
class Reading:
    """One account as just read."""

    fact: Fact
    generation: int
    version: int
    lapsed: bool = False
    """The last session ended with its node's lease: no reconnect is to be waited for any more."""
    wish: Wish | None = None
    """None when the store knows none; then the wish seen last goes on (see `Watches.wish_of`)."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a stream is told of one account; `version` counts within `generation`."""

    account_id: int
    fact: Fact
    generation: int
    version: int


@dataclass(slots=True)
class _Account:
    shown: Reading | None = None
    """What every watching stream has been or is being told."""
    newest: tuple[int, int] = (0, 0)
    """Generation and version of the newest reading: readings may overtake each other."""
    held: Reading | None = None
    """Offline, not told yet."""
    due: float = 0.0
    """When `held` is told: monotonic seconds."""
    wish: Wish | None = None
    streams: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Stream:
    wake: Callable[[], None]
    sent: dict[int, tuple[int, int] | None] = field(default_factory=dict)
    """Interest: account → generation and version sent last."""
    dirty: dict[int, None] = field(default_factory=dict)
    """Accounts to be told of, oldest first."""
    digest: int = 0


class Watches:
    """All interest of one replica."""

    def __init__(self, debounce_seconds: float) -> None:
        self._debounce_seconds = debounce_seconds
        self._accounts: dict[int, _Account] = {}
        self._streams: dict[int, _Stream] = {}
        self._held: set[int] = set()
        self._next_stream = 1

    def __len__(self) -> int:
        return len(self._accounts)

    def __contains__(self, account_id: int) -> bool:
        return account_id in self._accounts

    def accounts(self) -> tuple[int, ...]:
        """All watched accounts."""
        return tuple(self._accounts)

    def open(self, wake: Callable[[], None]) -> int:
        """A new stream; `wake` is called when there is something to take."""
        number = self._next_stream
        self._next_stream += 1
        self._streams[number] = _Stream(wake)
        return number

    def close(self, stream: int) -> None:
        """Forget a stream and its interest."""
        self.remove(stream, tuple(self._streams[stream].sent))
        del self._streams[stream]

    def interest(self, stream: int) -> int:
        """How many accounts a stream watches."""
        return len(self._streams[stream].sent)

    def add(self, stream: int, account_ids: Iterable[int]) -> None:
        """Watch from now on. Each account must be read: its reading is the snapshot.

        One that is watched already is told again: the asker has found that it missed something.
        """
        interest = self._streams[stream]
        for account_id in account_ids:
            account = self._accounts.setdefault(account_id, _Account())
            account.streams.add(stream)
            interest.sent.setdefault(account_id, None)
            if account.shown is not None:
                interest.dirty[account_id] = None
        if interest.dirty:
            interest.wake()

    def remove(self, stream: int, account_ids: Iterable[int]) -> None:
        """Watch no longer."""
        interest = self._streams[stream]
        for account_id in account_ids:
            if account_id not in interest.sent:
                continue
            _unmix(interest, account_id)
            del interest.sent[account_id]
            interest.dirty.pop(account_id, None)
            account = self._accounts[account_id]
            account.streams.discard(stream)
            if not account.streams:
                del self._accounts[account_id]
                self._held.discard(account_id)

    def wish_of(self, account_id: int, read: Wish | None) -> Wish | None:
        """The wish to merge by: as read, else as read last.

        A wish is never taken back by silence: only an emptied store knows none any more, and until
        it is told again an invisible user must not be shown.
        """
        if read is not None:
            return read
        account = self._accounts.get(account_id)
        return account.wish if account is not None else None

    def observe(self, account_id: int, reading: Reading, now: float) -> None:
        """Take in a reading (monotonic seconds) and decide what is told."""
        account = self._accounts.get(account_id)
        if account is None:
            return
        generation, version = account.newest
        if reading.generation == generation and reading.version < version:
            return  # an older reading that came later
        account.newest = (reading.generation, reading.version)
        if reading.wish is not None:
            account.wish = reading.wish
        shown = account.shown
        if shown is None:
            self._show(account_id, account, reading)
        elif reading.fact == shown.fact:
            self._unhold(account_id, account)
        elif reading.fact.state is State.UNKNOWN:
            # no news: what was shown stays shown until the warm-up ends
            self._unhold(account_id, account)
        elif _goes_offline(shown.fact, reading.fact) and not reading.lapsed:
            if account.held is None:
                account.due = now + self._debounce_seconds
                self._held.add(account_id)
            account.held = reading
        else:
            self._show(account_id, account, reading)

    def release(self, now: float) -> None:
        """Tell what was held and is due (monotonic seconds)."""
        for account_id in [key for key in self._held if self._accounts[key].due <= now]:
            account = self._accounts[account_id]
            if account.held is not None:
                self._show(account_id, account, account.held)

    def next_release(self) -> float | None:
        """When the next held notice is due: monotonic seconds; None when there is none."""
        return min((self._accounts[key].due for key in self._held), default=None)

    def take(self, stream: int, limit: int) -> list[Notice]:
        """Up to `limit` notices for a stream, which are counted as sent."""
        interest = self._streams[stream]
        notices: list[Notice] = []
        while interest.dirty and len(notices) < limit:
            account_id = next(iter(interest.dirty))
            del interest.dirty[account_id]
            shown = self._accounts[account_id].shown
            if shown is None:
                continue
            _unmix(interest, account_id)
            interest.sent[account_id] = (shown.generation, shown.version)
            interest.digest ^= mix_version(account_id, shown.generation, shown.version)
            notices.append(Notice(account_id, shown.fact, shown.generation, shown.version))
        return notices

    def digest(self, stream: int) -> int:
        """XOR of `mix_version` over all that was sent to a stream and is still watched."""
        return self._streams[stream].digest

    def _show(self, account_id: int, account: _Account, reading: Reading) -> None:
        self._unhold(account_id, account)
        account.shown = reading
        for number in account.streams:
            stream = self._streams[number]
            stream.dirty[account_id] = None
            stream.wake()

    def _unhold(self, account_id: int, account: _Account) -> None:
        account.held = None
        self._held.discard(account_id)


def _goes_offline(shown: Fact, fact: Fact) -> bool:
    return fact.state is State.OFFLINE and shown.state not in (State.OFFLINE, State.UNKNOWN)


def _unmix(interest: _Stream, account_id: int) -> None:
    sent = interest.sent[account_id]
    if sent is not None:
        interest.digest ^= mix_version(account_id, *sent)


class Counters:
    """Finds lost notices of changes. Each bucket of accounts counts its changes in Redis.

    A notice carries the count after it, so a reader sees a hole as soon as the next one comes.
    The last notice has no next one: the counts themselves are read once a second, and one that
    is still ahead at the following look was lost (the first look may have overtaken it).
    """

    def __init__(self) -> None:
        self._last: dict[int, int] = {}
        self._ahead: dict[int, int] = {}

    def reset(self) -> None:
        """Everything before is void (new generation, new subscription)."""
        self._last.clear()
        self._ahead.clear()

    def notice(self, bucket: int, count: int) -> bool:
        """Take in a notice; True when notices before it are missing."""
        last = self._last.get(bucket)
        if last is not None and count <= last:
            return False  # an older one that came later
        self._last[bucket] = count
        return last is not None and count != last + 1

    def look(self, counts: dict[int, int]) -> list[int]:
        """Take in all counts as read; the buckets with changes of which no notice came."""
        missed: list[int] = []
        for bucket, count in counts.items():
            last = self._last.setdefault(bucket, count)
            suspected = self._ahead.pop(bucket, None)
            if suspected is not None and last < suspected:
                missed.append(bucket)
                self._last[bucket] = last = max(last, suspected)
            if count > last:
                self._ahead[bucket] = count
        return missed
