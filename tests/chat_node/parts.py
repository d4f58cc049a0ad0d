"""Parts of a node for tests: a clock that only moves when somebody sleeps, and scripted neighbours.

What is scripted here are the answers of others (a commit's outcome, a peer that is away); the code
under test is the node's own. Whole nodes on real stores are tested in the modules named
`test_mesh_…`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from chat_svc.core.batch import PendingSend, Sender
from chat_svc.core.content import Checked
from chat_svc.core.effects import Effect
from chat_svc.core.limits import Limits
from chat_svc.node.counters import NodeCounters
from chat_svc.node.hints import HintSigner, NodeAddress
from chat_svc.node.live_session import LiveSession
from chat_svc.node.outbox import Outbox
from chat_svc.store.accounts import AccountRow
from chat_svc.store.commit import CommitOutcome, CommitRow, CommitStatus, Recipient
from chat_svc.store.conversations import ConversationRow, Pair
from chat_svc.store.outbox import OutboxRow
from chatmesh.runtime.identity import Identity
from chatmesh.runtime.readiness import Readiness
from chatmesh.runtime.trace import Tracer
from chatmesh.v1 import session_pb2 as pb
from tests.chat_core.builders import WALL_MS, key, parsed

HISTORY = b"h" * 16
TENANT = "default"


class StepClock:
    """Time passes by sleeping only, and a sleep takes no time."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def wall_ms(self) -> int:
        return WALL_MS + int((self.now - 1_000) * 1000)

    def monotonic(self) -> float:
        return self.now

    def boottime_ns(self) -> int:
        return int(self.now * 1e9)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], turns: int = 10_000) -> None:
    """Let the event loop turn until the condition holds."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to pass")


class Recorder:
    """Stands for the node behind sessions: effects are kept."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.over: list[LiveSession] = []

    def run(self, session: LiveSession, effect: Effect) -> None:
        self.effects.append(effect)

    def ended(self, session: LiveSession) -> None:
        self.over.append(session)


def identity(user: str = "bob", tenant: str = TENANT) -> Identity:
    return Identity(tenant, user, frozenset(), WALL_MS + 3_600_000, "test", "t")


def live_session(
    account: int = 2,
    device: str = "phone",
    session_no: int = 1,
    *,
    clock: StepClock | None = None,
    node: Recorder | None = None,
    head: int = 0,
) -> LiveSession:
    """A session that is open and caught up at ``head``."""
    clock = clock or StepClock()
    session = LiveSession(
        node or Recorder(),
        identity(f"user{account}"),
        Limits(),
        clock,
        NodeCounters(),
        Tracer("test"),
    )
    session.account, session.device_id, session.session_no = account, device, session_no
    session.token = f"{account}/{device}/{session_no}"
    session.on_frame(pb.ClientFrame(hello=pb.Hello(device_id=device)))
    session.machine.opened(
        pb.Welcome(start_timeline_seq=head, head_timeline_seq=head), clock.monotonic()
    )
    session.settle()
    session.machine.read_done([], 1, head, clock.monotonic())
    drain(session)
    return session


def drain(session: LiveSession) -> list[pb.ServerFrame]:
    """What a writer would write now."""
    frames = []
    while frame := session.take_frame():
        frames.append(parsed(frame))
    return frames


def entries_of(session: LiveSession) -> list[Any]:
    """Entries that a writer would write now."""
    return [entry for frame in drain(session) for entry in frame.entries]


class Answers:
    """Collects results of a sender's messages by the last byte of their keys."""

    def __init__(self) -> None:
        self.results: list[tuple[int, pb.SendResult]] = []

    def take(self, send: PendingSend, result: bytes, accepted: bool) -> None:
        parsed_result = pb.SendResult.FromString(result)
        assert accepted != parsed_result.HasField("problem")
        self.results.append((send.message.key[-1], parsed_result))

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.results]

    def reasons(self) -> dict[int, str]:
        return {number: result.problem.reason for number, result in self.results}


def sender(answers: Answers, account: int = 1, user: str = "alice") -> Sender:
    return Sender(TENANT, 1, account, user, b"", 0, answers.take)


def sends(
    owner: Sender, numbers: Sequence[int], *, to: str = "bob", conversation: int = 0
) -> list[PendingSend]:
    return [
        PendingSend(
            owner,
            Checked(
                key(number),
                "" if conversation else to,
                conversation,
                1,
                3,
                0,
                0,
                b"J\x04\n\x02\n\x00",
                6,
                (),
                b"",
            ),
            None,
        )
        for number in numbers
    ]


class ScriptedCommit:
    """A commit that stores in memory as the real one does, and fails when told to.

    `script` holds what the next calls do first: an exception to raise before anything happens, or
    a function of the rows that may raise.
    """

    def __init__(self) -> None:
        self.script: list[Exception | Callable[[Sequence[CommitRow]], None] | None] = []
        self.calls: list[list[CommitRow]] = []
        self.batch_ids: list[int] = []
        self.done: list[list[int]] = []
        self.keys: dict[tuple[int, bytes], CommitOutcome] = {}
        self.conversations: dict[int, int] = {}
        self.timelines: dict[int, int] = {}
        self.after: list[Exception | None] = []
        self.terminated = 0
        self.began = 0
        self.gate: asyncio.Event | None = None
        self.status: dict[bytes, CommitStatus] = {}

    async def commit(
        self, rows: Sequence[CommitRow], *, batch_id: int, node_id: int, done: Sequence[int]
    ) -> list[CommitOutcome]:
        self.began += 1
        if self.gate is not None:
            await self.gate.wait()
        self.calls.append(list(rows))
        self.batch_ids.append(batch_id)
        self.done.append(list(done))
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        if step is not None:
            step(rows)
        outcomes = [self._store(row) for row in rows]
        after = self.after.pop(0) if self.after else None
        if after is not None:
            raise after
        return outcomes

    def _store(self, row: CommitRow) -> CommitOutcome:
        known = self.keys.get((row.sender, row.key))
        if known is not None:
            return CommitOutcome(
                CommitStatus.REPEATED,
                known.message_id,
                known.conversation,
                known.conversation_seq,
                known.message_no,
                known.created_at_ms,
                known.sender_timeline_seq,
                [],
            )
        status = self.status.get(row.key)
        if status is not None:
            return CommitOutcome(status, 0, 0, 0, 0, 0, 0, [])
        seq = self.conversations[row.conversation] = self.conversations.get(row.conversation, 0) + 1
        recipients = []
        for account in (1, 2, 3):
            place = self.timelines[account] = self.timelines.get(account, 0) + 1
            recipients.append(Recipient(account, place, account != row.sender, False))
        outcome = CommitOutcome(
            CommitStatus.ACCEPTED,
            row.message_id,
            row.conversation,
            seq,
            seq,
            WALL_MS,
            self.timelines[row.sender],
            recipients,
        )
        self.keys[row.sender, row.key] = outcome
        return outcome

    async def terminate_previous(self) -> bool:
        self.terminated += 1
        return True

    async def close(self) -> None:
        """The lane leaves its server."""


class ScriptedAccounts:
    """Alice is 1, Bob 2, Carol 3."""

    known = {"alice": 1, "bob": 2, "carol": 3}  # noqa: RUF012

    def __init__(self) -> None:
        self.calls = 0
        self.fails: list[Exception] = []
        self.breaks: dict[str, Exception] = {}
        """Users whose mere name breaks the call."""

    async def resolve_accounts(
        self, tenant: str, users: Sequence[str], make: bool, new_ids: Any
    ) -> dict[str, AccountRow]:
        self.calls += 1
        if self.fails:
            raise self.fails.pop(0)
        for user in users:
            if user in self.breaks:
                raise self.breaks[user]
        return {
            user: AccountRow(self.known[user], 1, 1, disabled=False)
            for user in users
            if user in self.known
        }

    async def users_of(self, accounts: Sequence[int]) -> dict[int, str]:
        names = {number: user for user, number in self.known.items()}
        return {account: names[account] for account in accounts if account in names}

    async def contacts_of(self, accounts: Sequence[int]) -> dict[int, list[int]]:
        return {account: [] for account in accounts}


class ScriptedConversations:
    """A pair's conversation is 100 × low + high; groups are what `groups` holds."""

    def __init__(self) -> None:
        self.groups: dict[int, ConversationRow] = {}
        self.calls = 0

    async def direct_conversations(
        self, tenant_id: int, pairs: Sequence[Pair], new_ids: Any, *, make_contacts: bool = True
    ) -> dict[Pair, int]:
        self.calls += 1
        return {(low, high): 100 * low + high for low, high in pairs}

    async def conversations(self, tenant_id: int, ids: Sequence[int]) -> dict[int, ConversationRow]:
        self.calls += 1
        return {number: self.groups[number] for number in ids if number in self.groups}


class ScriptedRows:
    """Outbox rows that are due."""

    def __init__(self) -> None:
        self.deleted: list[int] = []
        self.due: list[list[OutboxRow]] = []
        self.asked: list[int] = []
        self.limits: list[int] = []
        self.waits: list[int] = []
        self.given_back: list[int] = []

    async def delete_done(self, batch_ids: Sequence[int]) -> int:
        self.deleted += batch_ids
        return len(batch_ids)

    async def due_rows(
        self, node_id: int, older_than_ms: int, limit: int, *, wait_ms: int
    ) -> list[OutboxRow]:
        self.asked.append(older_than_ms)
        self.limits.append(limit)
        self.waits.append(wait_ms)
        return self.due.pop(0) if self.due else []

    async def not_sent(self, node_id: int, batch_ids: Sequence[int]) -> None:
        self.given_back += batch_ids


def outbox(rows: ScriptedRows | None = None, clock: Any = None, *, max_rows: int = 100) -> Outbox:
    """An outbox whose stream is never opened: frames wait in it."""
    return Outbox(
        lambda: None,
        rows or ScriptedRows(),
        NodeAddress("n", "127.0.0.1:1", 7),
        clock or StepClock(),
        NodeCounters(),
        max_rows,
        Readiness().require("sync", critical=False),
    )


def signer() -> HintSigner:
    return HintSigner(b"k" * 32, HISTORY)


async def running(work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """A background loop; the test cancels it by `stop`."""

    async def body() -> None:
        await work()

    return asyncio.get_running_loop().create_task(body())


async def stop(*tasks: asyncio.Task[None]) -> None:
    """End background loops."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and task.exception() is not None:
            raise AssertionError("a loop failed") from task.exception()
