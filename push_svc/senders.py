"""Requests to providers: deadlines, circuits, counts. Knows no job's end and no store.

Circuits are per provider, for webhooks per host, so that one dead back end holds up its own only.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from chatmesh.runtime import metrics
from chatmesh.runtime.clock import Clock
from push_svc import measures
from push_svc.circuit import Circuit
from push_svc.decide import Binding, Provider
from push_svc.providers import Gone, Outcome, Refused, Retry, Sent
from push_svc.providers import Provider as ProviderPort
from push_svc.render import Notification

MAX_CIRCUITS: Final = 10_000
"""Hosts of webhooks are users' to name; the one unused for longest is forgotten."""
MAX_PER_PROVIDER: Final = 64
"""Requests under way to one provider: above it no more of its jobs are claimed."""

_WORDS: Final = {Sent: "sent", Retry: "retry", Gone: "gone", Refused: "refused"}


class Senders:
    """All providers of this server."""

    def __init__(
        self, providers: Mapping[int, ProviderPort], clock: Clock, *, timeout_seconds: float
    ) -> None:
        """`providers` by their number in the contract."""
        self._providers = dict(providers)
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._circuits: OrderedDict[tuple[int, str], Circuit] = OrderedDict()
        self._under_way = dict.fromkeys(self._providers, 0)
        self._sends = metrics.counter(measures.SENDS)
        self._seconds = metrics.histogram(measures.SEND_SECONDS)
        self._repeated = metrics.counter(measures.REPEATED)

    def get(self, provider: int) -> ProviderPort | None:
        """The provider of a number, if it is offered here."""
        return self._providers.get(provider)

    def busy(self) -> list[int]:
        """Providers that take no more now."""
        return [number for number, count in self._under_way.items() if count >= MAX_PER_PROVIDER]

    def closed_for(self, binding: Binding) -> float:
        """Seconds for which nothing may go where a binding points; 0 = it may."""
        return self._circuit(binding).closed_for(self._clock.monotonic())

    async def send(
        self, notification: Notification, binding: Binding, *, is_repetition: bool
    ) -> Outcome:
        """Send one notification, within the deadline."""
        provider = self._providers.get(binding.provider)
        if provider is None:
            return Refused("the provider is not offered any more")
        circuit = self._circuit(binding)
        circuit.sending(self._clock.monotonic())
        if is_repetition:
            self._repeated.labels(provider.name).inc()
        began = time.monotonic()
        self._under_way[binding.provider] += 1
        outcome: Outcome = Retry("cancelled")
        try:
            async with asyncio.timeout(self._timeout_seconds):
                outcome = await provider.send(notification, binding)
        except TimeoutError:
            outcome = Retry("no answer in time")
        finally:
            self._under_way[binding.provider] -= 1
            self._note(provider.name, circuit, outcome, time.monotonic() - began)
        return outcome

    async def close(self) -> None:
        """Close all connections."""
        for provider in self._providers.values():
            await provider.close()

    def _note(self, name: str, circuit: Circuit, outcome: Outcome, seconds: float) -> None:
        self._sends.labels(name, _WORDS[type(outcome)]).inc()
        self._seconds.labels(name).observe(seconds)
        if isinstance(outcome, Retry) and outcome.provider_failed:
            circuit.failed(self._clock.monotonic())
        else:
            circuit.worked()

    def _circuit(self, binding: Binding) -> Circuit:
        host = ""
        if binding.provider == Provider.WEBHOOK:
            host = urlsplit(binding.token).netloc
        key = (binding.provider, host)
        circuit = self._circuits.get(key)
        if circuit is None:
            circuit = self._circuits[key] = Circuit()
            if len(self._circuits) > MAX_CIRCUITS:
                self._circuits.popitem(last=False)
        self._circuits.move_to_end(key)
        return circuit
