"""The claim loop: due jobs are claimed, asked about, sent or ended.

A job's row is never locked while a provider is waited for: a claim is a number and a time. Who dies
with a claim leaves a job that is due again when the time is over. What a request's outcome was is
written by one batched statement, and repeated until it is certain; until then the slot is taken.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import psycopg

from chatmesh.mesh.v1 import push_pb2
from chatmesh.runtime import failpoints, metrics, trace
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.postgres import LostConnection
from chatmesh.runtime.trace import Tracer
from push_svc import measures
from push_svc.chat import ChatAway, ChatNodes
from push_svc.decide import (
    Fire,
    Forget,
    Job,
    Policy,
    Privacy,
    Provider,
    State,
    Void,
    Wait,
    backoff_seconds,
    decide,
)
from push_svc.policies import how_to_tell
from push_svc.providers import Gone, Outcome, Refused, Retry, Sent
from push_svc.recorder import Recorder
from push_svc.render import Notification, render
from push_svc.senders import Senders
from push_svc.settings import PushSettings
from push_svc.store.jobs import Ending, JobStore, Result
from push_svc.store.records import Letter, RecordStore
from push_svc.store.tokens import TokenStore

CLAIM_AT_ONCE: Final = 32
"""Jobs of one claim. MAX_PER_PROVIDER and one claim more is the most that one provider can hold."""
MAX_IN_FLIGHT: Final = 512
"""Above five providers at their most: none can keep the others out."""
POLL_SECONDS: Final = 1.0
"""Jobs of other replicas, and of those that died, are found within this."""
AWAY_FIRST_SECONDS: Final = 0.5
AWAY_MAX_SECONDS: Final = 5.0
STORE_ERRORS: Final = (LostConnection, StoreRefused, psycopg.Error)

_log = logger(__name__)
_budget = LogBudget(per_second=1)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop works with."""

    jobs: JobStore
    tokens: TokenStore
    records: RecordStore
    recorder: Recorder
    chat: ChatNodes
    senders: Senders
    clock: Clock
    tracer: Tracer


class Pending:
    """The loop of one replica."""

    def __init__(self, parts: Parts, settings: PushSettings) -> None:
        self._parts = parts
        self._settings = settings
        self._wake = asyncio.Event()
        self._due = 0.0
        """Monotonic seconds when the next job is due, as far as known."""
        self._in_flight = 0
        self._saturated = False
        """The last claim took less than there may be, for want of slots."""
        self._away_seconds = AWAY_FIRST_SECONDS
        self._ended = metrics.counter(measures.PUSH_JOBS)

    def on_jobs(self, seconds: float) -> None:
        """Jobs were written; the next is due in so long."""
        due = self._parts.clock.monotonic() + seconds
        if due < self._due:
            self._due = due
            self._wake.set()

    async def run(self) -> None:
        """Claim and handle for ever. Requests under way are dropped with it; their claims end."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    claimed = await self._claim()
                except STORE_ERRORS as error:
                    if _budget.take():
                        _log.warning("jobs not claimed", error=str(error))
                    self._due = self._parts.clock.monotonic() + POLL_SECONDS
                    claimed = []
                if claimed:
                    # the states are read while more is claimed; a slot is held until it is recorded
                    self._in_flight += len(claimed)
                    claimed_at = self._parts.clock.boottime_ns()
                    group.create_task(self._handle(claimed, claimed_at), name="push batch")
                if len(claimed) < CLAIM_AT_ONCE:
                    await self._sleep()

    async def _claim(self) -> list[Job]:
        self._due = self._parts.clock.monotonic() + POLL_SECONDS
        limit = min(CLAIM_AT_ONCE, MAX_IN_FLIGHT - self._in_flight)
        busy = self._parts.senders.busy()
        self._saturated = limit < CLAIM_AT_ONCE or bool(busy)
        if limit <= 0:
            return []
        claim_ms = round(self._settings.push_claim_seconds * 1000)
        claimed = await self._parts.jobs.claim(busy, limit, claim_ms)
        if claimed:
            await failpoints.hit("push.claim.after")
        elif (due := await self._parts.jobs.next_due_seconds()) is not None and due > 0:
            self.on_jobs(due)
        return claimed

    async def _sleep(self) -> None:
        while (pause := self._due - self._parts.clock.monotonic()) > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _handle(self, claimed: list[Job], claimed_at_ns: int) -> None:
        ready, results = self._split_by_circuit(claimed)
        fires: list[tuple[Job, Fire]] = []
        forgotten: list[Job] = []
        for job, state in await self._states(ready, results):
            match decide(job, state, self._policy(state)):
                case Void(reason):
                    results.append(self._voided(job, reason))
                case Wait(seconds):
                    results.append(_again(job, seconds, attempts=0))
                case Forget():
                    forgotten.append(job)
                case Fire() as fire:
                    fires.append((job, fire))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._record(results))
            for job in forgotten:
                group.create_task(self._forget(job, "device gone"))
            for job, fire in fires:
                group.create_task(self._fire_or_bury(job, fire, claimed_at_ns))

    def _split_by_circuit(self, claimed: Sequence[Job]) -> tuple[list[Job], list[Result]]:
        ready: list[Job] = []
        results: list[Result] = []
        for job in claimed:
            closed = self._parts.senders.closed_for(job.binding)
            if closed > 0:
                pause = closed * random.uniform(1.0, 1.5)
                results.append(_again(job, pause, attempts=job.attempt - 1))
            else:
                ready.append(job)
        return ready, results

    async def _states(self, jobs: list[Job], results: list[Result]) -> list[tuple[Job, State]]:
        """The jobs with their states; those of which nothing is known go into `results`."""
        if not jobs:
            return []
        began_ns = time.time_ns()
        try:
            states = await self._parts.chat.states(jobs)
        except ChatAway as error:
            if _budget.take():
                _log.warning("no chat node answers: jobs are kept", error=str(error))
            for job in jobs:
                pause = self._away_seconds * random.uniform(0.5, 1.0)
                results.append(_again(job, pause, attempts=job.attempt - 1))
            self._away_seconds = min(self._away_seconds * 2, AWAY_MAX_SECONDS)
            return []
        self._away_seconds = AWAY_FIRST_SECONDS
        ended_ns = time.time_ns()
        for job in jobs:
            if trace.is_sampled(job.trace):
                self._parts.tracer.hop(
                    "push.state", job.trace, began_ns, ended_ns, {"devices": len(jobs)}
                )
        return list(zip(jobs, states, strict=True))

    async def _fire_or_bury(self, job: Job, fire: Fire, claimed_at_ns: int) -> None:
        try:
            result = await self._fire(job, fire, claimed_at_ns)
        except Exception as error:  # noqa: BLE001 - see below
            # a job that breaks this code must neither break the others nor come back for ever
            _log.exception("a push job broke its sender")
            result = await self._dead(job, f"internal: {type(error).__name__}")
        if result is not None:
            await self._record([result])

    async def _fire(self, job: Job, fire: Fire, claimed_at_ns: int) -> Result | None:
        """Send; the result to be recorded, None when the token went instead."""
        provider = self._parts.senders.get(job.binding.provider)
        if provider is None:
            return await self._dead(job, "the provider is not offered here")
        if not fire.visible and not provider.shows_silent:
            return self._voided(job, "silent")
        held = (self._parts.clock.boottime_ns() - claimed_at_ns) / 1e9
        if held > self._settings.push_claim_seconds - self._settings.push_send_seconds:
            # this process stood still: the request could end after the claim, beside another's
            return _again(job, 0, attempts=job.attempt - 1)
        notification = render(
            job,
            fire,
            self._privacy(job),
            ttl_seconds=self._settings.push_ttl_seconds,
            summary_over=self._settings.push_summary_over,
        )
        began_ns = time.time_ns()
        outcome = await self._parts.senders.send(
            notification, job.binding, is_repetition=job.attempt > 1
        )
        await failpoints.hit("push.sent.after")
        self._trace(job, fire, provider.name, outcome, began_ns)
        if isinstance(outcome, Gone):
            await self._forget(job, outcome.why)
            return None
        return await self._judged(job, fire, notification, outcome)

    async def _judged(
        self, job: Job, fire: Fire, notification: Notification, outcome: Outcome
    ) -> Result:
        match outcome:
            case Sent():
                self._ended.labels("sent").inc()
                is_log = job.binding.provider == Provider.LOG
                return Result(
                    job,
                    Ending.DONE,
                    told_seq=fire.told_seq,
                    badge=fire.badge,
                    dismissed_seq=fire.dismiss_seq,
                    outcome="sent",
                    visible=fire.visible,
                    title=notification.title if is_log else "",
                    body=notification.body if is_log else "",
                    message_id=fire.entries[-1].message_id if fire.entries else 0,
                )
            case Retry(why, after_seconds, _):
                if job.age_seconds > self._settings.push_give_up_seconds:
                    return await self._dead(job, f"gave up: {why}")
                self._ended.labels("retrying").inc()
                pause = backoff_seconds(job.attempt, random.random(), after_seconds)
                return replace(
                    _again(job, pause, attempts=job.attempt),
                    outcome="retrying",
                    visible=fire.visible,
                )
            case Refused(why):
                return await self._dead(job, f"refused: {why}")
            case Gone(why):
                return await self._dead(job, why)

    def _voided(self, job: Job, reason: str) -> Result:
        self._ended.labels("void").inc()
        if trace.is_sampled(job.trace):
            now_ns = time.time_ns()
            self._parts.tracer.hop("push.void", job.trace, now_ns, now_ns, {"reason": reason})
        return Result(job, Ending.DONE, outcome="void")

    async def _dead(self, job: Job, reason: str) -> Result:
        """A dead letter first, then the job's end: a crash between leaves both."""
        self._ended.labels("failed").inc()
        target = push_pb2.PushTarget(
            account_id=job.account_id,
            timeline_seq=job.timeline_seq,
            device_ids=[job.device_id],
            trace_context=job.trace,
            message_id=job.message_id,
        )
        letter = Letter(
            0, "push", job.account_id, job.device_id, job.timeline_seq, reason, 0,
            target.SerializeToString(),
        )  # fmt: skip
        await self._parts.recorder.certainly(lambda: self._parts.records.put_letters([letter]))
        return Result(job, Ending.DONE, outcome="failed")

    async def _forget(self, job: Job, why: str) -> None:
        """A token is worth nothing any more: it goes with its jobs, and the chat node is told."""
        _log.info("push token removed", why=why, provider=job.binding.provider)
        self._ended.labels("gone").inc()
        await self._parts.recorder.certainly(
            lambda: self._parts.tokens.delete_one(
                job.account_id, job.device_id, job.binding.token_key
            )
        )
        # if the device has another token by now, its job stays and is told through that
        await self._record([_again(job, 0, attempts=0)])
        await self._parts.recorder.later(
            self._parts.chat.tell_count(
                job.account_id, lambda: self._parts.tokens.count(job.account_id)
            )
        )

    async def _record(self, results: Sequence[Result]) -> None:
        if results:
            await self._parts.recorder.finish(results)
            self._in_flight -= len(results)
            soonest = min(
                (result.delay_ms for result in results if result.ending is Ending.AGAIN),
                default=None,
            )
            if self._saturated:
                self.on_jobs(0)
            elif soonest is not None:
                self.on_jobs(soonest / 1000)

    def _policy(self, state: State) -> Policy:
        settings = self._settings
        how = how_to_tell(settings.push_policies, state.tenant, state.device_kind)
        return Policy(settings.push_active_delay_seconds, how)

    def _privacy(self, job: Job) -> Privacy:
        if job.binding.privacy is not Privacy.DEFAULT:
            return job.binding.privacy
        return self._settings.default_privacy(job.binding.provider)

    def _trace(self, job: Job, fire: Fire, provider: str, outcome: Outcome, began_ns: int) -> None:
        if not trace.is_sampled(job.trace):
            return
        links = [entry.trace for entry in fire.entries if trace.is_sampled(entry.trace)]
        self._parts.tracer.hop(
            "push.send",
            job.trace,
            began_ns,
            time.time_ns(),
            {"provider": provider, "visible": fire.visible, "attempt": job.attempt},
            links,
            error="" if isinstance(outcome, Sent) else type(outcome).__name__.lower(),
        )


def _again(job: Job, seconds: float, *, attempts: int) -> Result:
    return Result(job, Ending.AGAIN, delay_ms=round(seconds * 1000), attempts=max(attempts, 0))
