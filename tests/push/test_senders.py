"""Circuits and deadlines around providers: who fails is left alone, and nobody else with it."""

from __future__ import annotations

import asyncio

import pytest

from chatmesh.testing import VirtualClock
from push_svc.circuit import FAILURES_TO_OPEN, OPEN_FIRST_SECONDS
from push_svc.decide import Binding, Provider
from push_svc.providers import Outcome, Refused, Retry, Sent
from push_svc.render import Notification
from push_svc.senders import MAX_PER_PROVIDER, Senders
from tests.push.notes import NOTE
from tests.push.parts import binding

FAILED, LIMITED = Retry("HTTP 503"), Retry("HTTP 429", 7.0, provider_failed=False)


class Scripted:
    """A provider's adapter that answers as told, by token; without a word it takes all."""

    name = "scripted"
    shows_silent = True

    def __init__(self) -> None:
        self.answers: dict[str, Outcome] = {}
        self.sent: list[str] = []
        self.hold: asyncio.Event | None = None

    async def check_token(self, token: str, app: str) -> None:
        """Takes any."""

    async def send(self, notification: Notification, binding: Binding) -> Outcome:
        self.sent.append(binding.token)
        if self.hold is not None:
            await self.hold.wait()
        return self.answers.get(binding.token, Sent())

    async def close(self) -> None:
        """Nothing is open."""


def webhook(url: str) -> Binding:
    return binding(provider=Provider.WEBHOOK, token=url)


APNS, FCM = binding(provider=Provider.APNS, token="a"), binding(provider=Provider.FCM, token="f")


class World:
    """Senders over scripted providers and a clock moved by hand."""

    def __init__(self, timeout_seconds: float = 30) -> None:
        self.clock = VirtualClock()
        self.provider = Scripted()
        numbers = (Provider.APNS, Provider.FCM, Provider.WEBHOOK)
        self.senders = Senders(
            {int(number): self.provider for number in numbers},
            self.clock,
            timeout_seconds=timeout_seconds,
        )

    async def send(self, to: Binding, count: int = 1) -> Outcome:
        for _ in range(count):
            outcome = await self.senders.send(NOTE, to, is_repetition=False)
        return outcome


async def test_a_provider_that_fails_is_left_alone_and_no_other() -> None:
    world = World()
    world.provider.answers["a"] = FAILED
    assert await world.send(APNS, FAILURES_TO_OPEN - 1) == FAILED
    assert world.senders.closed_for(APNS) == 0, "single failures are retried on their own"
    await world.send(APNS)
    assert world.senders.closed_for(APNS) == OPEN_FIRST_SECONDS
    assert world.senders.closed_for(FCM) == 0
    world.clock.advance(OPEN_FIRST_SECONDS)
    assert world.senders.closed_for(APNS) == 0, "one may try"
    del world.provider.answers["a"]
    assert await world.send(APNS) == Sent()
    assert world.senders.closed_for(APNS) == 0


async def test_webhooks_have_a_circuit_for_each_host() -> None:
    world = World()
    dead, alive = webhook("https://dead.example/1"), webhook("https://alive.example/1")
    world.provider.answers[dead.token] = FAILED
    await world.send(dead, FAILURES_TO_OPEN)
    assert world.senders.closed_for(webhook("https://dead.example/2")) > 0
    assert world.senders.closed_for(webhook("https://dead.example:8443/2")) == 0
    assert world.senders.closed_for(alive) == 0
    assert await world.send(alive) == Sent()


@pytest.mark.parametrize("outcome", [LIMITED, Refused("HTTP 400")])
async def test_a_refusal_of_one_device_opens_nothing(outcome: Outcome) -> None:
    world = World()
    world.provider.answers["a"] = outcome
    assert await world.send(APNS, 3 * FAILURES_TO_OPEN) == outcome
    assert world.senders.closed_for(APNS) == 0


async def test_no_answer_in_time_is_a_failure() -> None:
    world = World(timeout_seconds=0.01)
    world.provider.hold = asyncio.Event()
    assert await world.send(APNS) == Retry("no answer in time")
    await world.send(APNS, FAILURES_TO_OPEN - 1)
    assert world.senders.closed_for(APNS) > 0


async def test_a_provider_that_is_slow_takes_no_more_than_its_share() -> None:
    world = World()
    world.provider.hold = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(MAX_PER_PROVIDER):
            group.create_task(world.send(APNS))
        while len(world.provider.sent) < MAX_PER_PROVIDER:  # noqa: ASYNC110 - turns, no time
            await asyncio.sleep(0)
        assert world.senders.busy() == [Provider.APNS]
        world.provider.hold.set()
    assert world.senders.busy() == []


async def test_a_provider_that_is_not_offered_any_more() -> None:
    outcome = await World().send(binding(provider=Provider.LOG))
    assert isinstance(outcome, Refused)
