"""What becomes of a due push job. Pure: job, binding and state come in, one decision comes out.

The order of the rules is their meaning: what is acked is never pushed, what was told is not told
again, what is muted is not shown, and an active device of the same user is given time to read it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from push_svc.policies import How


class Provider(IntEnum):
    """The numbers of `chatmesh.v1.PushProvider`."""

    FCM = 1
    APNS = 2
    WEB_PUSH = 3
    WEBHOOK = 4
    LOG = 5


class Privacy(IntEnum):
    """The numbers of `chatmesh.v1.PushPrivacy`."""

    DEFAULT = 0
    ID_ONLY = 1
    SENDER = 2
    FULL = 3


@dataclass(frozen=True, slots=True)
class Binding:
    """A device's token and what was told through it."""

    provider: int
    token: str
    token_key: bytes
    """Digest of provider and token; tells whether a result belongs to the token of now."""
    app: str
    locale: str
    privacy: Privacy
    pushed_seq: int
    """Newest position that a visible notification has told of; 0 = none."""
    badge: int
    """Badge told last; -1 = none yet."""
    bound_at_ms: int
    """When the token was registered last: Unix ms."""


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job."""

    account_id: int
    device_id: str
    timeline_seq: int
    """Position to be told of; 0 = only a dismissal."""
    dismiss_seq: int
    """Position up to which the user has read elsewhere; 0 = nothing to dismiss."""
    message_id: int
    trace: bytes
    age_seconds: float
    """Since the job was made."""
    attempt: int
    """1 = the first."""
    claim: int
    """Fence: results of an older claim do not count."""
    binding: Binding


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry that waits for the device and may notify."""

    timeline_seq: int
    message_id: int
    conversation_id: int
    sender_user_id: str
    title: str
    """Title of the group; empty otherwise."""
    text: str
    """Empty when encrypted or not text."""
    mention: bool
    collapse_key: str
    high_priority: bool
    trace: bytes


@dataclass(frozen=True, slots=True)
class State:
    """What a chat node says of a device now."""

    exists: bool
    acked_seq: int = 0
    notify_seq: int = 0
    badge: int = 0
    visible: bool = False
    pending: Sequence[Entry] = ()
    """Newest last, at most 5."""
    pending_count: int = 0
    pending_mentions: int = 0
    other_device_active: bool = False
    tenant: str = ""
    device_kind: int = 0
    """Number of DeviceKind."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the deployment wants."""

    active_delay_seconds: float = 5.0
    """How long a push waits while another device of the user is active."""
    how: How = How.ACK
    """What the device is told at all."""


@dataclass(frozen=True, slots=True)
class Void:
    """Nothing is to be told; the job ends."""

    reason: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The device is gone: its binding and jobs end."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again later."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fire:
    """Tell the device now."""

    visible: bool
    entries: tuple[Entry, ...]
    """What is new to the device, newest last; empty when silent."""
    count: int
    """How many messages are new, more than `entries` may hold."""
    badge: int
    told_seq: int
    """Position that is told of by this; 0 when silent."""
    dismiss_seq: int


Decision = Void | Forget | Wait | Fire


def decide(job: Job, state: State, policy: Policy) -> Decision:
    """Decide over one job."""
    if not state.exists:
        return Forget()
    if policy.how is How.NONE:
        return Void("policy")
    told = max(job.binding.pushed_seq, state.acked_seq)
    if job.timeline_seq <= state.acked_seq or state.notify_seq <= told:
        reason = "acked" if state.acked_seq >= min(job.timeline_seq, state.notify_seq) else "told"
        return _silent(job, state) or Void(reason)
    waiting, waiting_count = tuple(state.pending), state.pending_count
    if policy.how is How.MENTIONS:
        waiting = tuple(entry for entry in waiting if entry.mention)
        waiting_count = state.pending_mentions
    new = tuple(entry for entry in waiting if entry.timeline_seq > told)
    if not state.visible or not new:
        return _silent(job, state) or Void("muted or read")
    waits = state.other_device_active and policy.how is not How.ALWAYS
    if waits and job.age_seconds < policy.active_delay_seconds:
        return Wait(policy.active_delay_seconds - job.age_seconds)
    all_are_new = len(new) == len(waiting)
    return Fire(
        visible=True,
        entries=new,
        count=max(waiting_count, len(new)) if all_are_new else len(new),
        badge=state.badge,
        told_seq=state.notify_seq,
        dismiss_seq=job.dismiss_seq,
    )


def _silent(job: Job, state: State) -> Fire | None:
    """A dismissal or a changed badge, without anything to be seen; only to who was told before."""
    was_told = job.binding.badge >= 0
    if not was_told or (not job.dismiss_seq and job.binding.badge == state.badge):
        return None
    return Fire(
        visible=False,
        entries=(),
        count=0,
        badge=state.badge,
        told_seq=0,
        dismiss_seq=job.dismiss_seq,
    )


BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_MAX_SECONDS = 300.0
RETRY_AFTER_MAX_SECONDS = 3_600.0
"""A provider's wish is followed this far."""


def backoff_seconds(attempt: int, jitter: float, retry_after_seconds: float | None) -> float:
    """When to try again after failed attempt number `attempt` (from 1).

    Args:
        jitter: random within [0, 1).
        retry_after_seconds: what the provider asked for, if it did.
    """
    doubled = BACKOFF_FIRST_SECONDS * float(1 << min(attempt - 1, 16))
    pause = min(doubled, BACKOFF_MAX_SECONDS) * (0.5 + jitter / 2)
    if retry_after_seconds is None:
        return pause
    # after the asked time, spread: others were asked the same
    return min(retry_after_seconds, RETRY_AFTER_MAX_SECONDS) + pause * jitter
