"""The port to providers: one adapter each, all with the same few outcomes.

An adapter knows its provider's protocol and nothing of jobs. It never raises for what a provider
does; what it raises is a bug of its own.
"""

from dataclasses import dataclass
from typing import Protocol

from push_svc.decide import Binding
from push_svc.render import Notification


@dataclass(frozen=True, slots=True)
class Sent:
    """The provider took it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """It may work later."""

    why: str
    after_seconds: float | None = None
    """What the provider asked for."""
    provider_failed: bool = True
    """False: it works, but refuses this one for now (a rate limit of one device)."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The token is worth nothing any more."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """This notification will never be taken; the token may be good."""

    why: str


Outcome = Sent | Retry | Gone | Refused


class BadToken(ValueError):
    """A token cannot be one of the provider; the text says why, without the token."""


class Provider(Protocol):
    """One provider."""

    name: str
    """For metrics and logs."""
    shows_silent: bool
    """Whether it takes notifications without anything to be seen."""

    async def check_token(self, token: str, app: str) -> None:
        """Raise BadToken when `token` cannot be one of this provider."""
        ...

    async def send(self, notification: Notification, binding: Binding) -> Outcome:
        """Hand one notification over, within the deadline of the settings."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...
