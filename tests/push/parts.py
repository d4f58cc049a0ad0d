"""Short names for what the tests of push are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from push_svc.decide import Binding, Entry, Job, Privacy, Provider, State
from push_svc.store.jobs import Ending, Result, Target
from push_svc.store.tokens import Token, token_key

ALICE, BOB, CAROL = (1 << 62) + 1, (1 << 62) + 2, (1 << 62) + 3


def token(device_id: str = "phone", text: str = "", provider: int = Provider.LOG) -> Token:
    """A token of a device."""
    return Token(device_id, provider, text or f"token of {device_id}", "app", "en", 0)


def target(account_id: int, timeline_seq: int, **fields: Any) -> Target:
    """A wish that an account be told."""
    wanted = {
        "device_ids": (),
        "except_device_ids": (),
        "delay_ms": 0,
        "trace": b"",
        "message_id": timeline_seq * 10,
        **fields,
    }
    return Target(account_id, timeline_seq, **wanted)


def binding(**fields: Any) -> Binding:
    """A binding that was told nothing yet."""
    text = "token of phone"
    wanted = {
        "provider": int(Provider.LOG),
        "token": text,
        "token_key": token_key(Provider.LOG, text),
        "app": "app",
        "locale": "en",
        "privacy": Privacy.DEFAULT,
        "pushed_seq": 0,
        "badge": -1,
        "bound_at_ms": 1_764_000_000_000,
        **fields,
    }
    return Binding(**wanted)


def job(timeline_seq: int = 5, **fields: Any) -> Job:
    """A job claimed for the first time."""
    wanted = {
        "account_id": ALICE,
        "device_id": "phone",
        "dismiss_seq": 0,
        "message_id": timeline_seq * 10,
        "trace": b"",
        "age_seconds": 0.0,
        "attempt": 1,
        "claim": 1,
        "binding": binding(),
        **fields,
    }
    return Job(timeline_seq=timeline_seq, **wanted)


def entry(timeline_seq: int, sender: str = "bob", text: str = "hello", **fields: Any) -> Entry:
    """An entry that may notify."""
    wanted = {
        "message_id": timeline_seq * 10,
        "conversation_id": 77,
        "title": "",
        "mention": False,
        "collapse_key": "",
        "high_priority": False,
        "trace": b"",
        **fields,
    }
    return Entry(timeline_seq=timeline_seq, sender_user_id=sender, text=text, **wanted)


def state(notify_seq: int = 5, acked_seq: int = 0, **fields: Any) -> State:
    """A device for which everything above its ack waits loudly."""
    pending = tuple(entry(seq) for seq in range(acked_seq + 1, notify_seq + 1))
    wanted = {
        "badge": len(pending),
        "visible": bool(pending),
        "pending": pending[-5:],
        "pending_count": len(pending),
        "other_device_active": False,
        **fields,
    }
    return State(True, acked_seq, notify_seq, **wanted)


def done(of: Job, **fields: Any) -> Result:
    """A result that ends a job."""
    return replace(Result(of, Ending.DONE), **fields)
