"""Digests of sets.

Sessions and watched accounts: XOR of well mixed 64-bit numbers, kept up to date with one operation
a change. Two sides that should hold the same set compare its count and digest. XOR makes the digest
independent of order and its own inverse, so adding and taking away are the same operation. It tells
differences, not forgeries: whoever chooses the numbers can choose their XOR.

Hints of one commit (`settle_digest`): BLAKE2s, because what is compared has passed Redis, and
whoever writes there must not find another set with the same digest.

Pure. Other implementations must give the same; the vectors:

    mix64(0, 0)               = 0x48218226FF3CD4BF
    mix64(1, 0)               = 0xDCE423FC82C0D5B8
    mix64(0, 1)               = 0xEA8568D2E45FD6CB
    mix64(2^63 - 1, 2^53)     = 0xB350CC82DF2CD641
    mix_version(5, 6, 7)      = 0x37F84575EA61526B
    settle_digest(7, [(2, 5, True), (1, 9, False)]) = 9e1420b86cf3d8503ccb7715fca9786f

The mixing function is the finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable
pseudorandom number generators", OOPSLA 2014), applied once per argument.
"""

from collections.abc import Iterable
from hashlib import blake2s
from struct import Struct
from typing import Final

SETTLE_DIGEST_BYTES: Final = 16
_BATCH: Final = Struct(">Q")
_HINT: Final = Struct(">QQ?")

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: the increment of SplitMix64."""


def _finalise(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def mix64(first: int, second: int) -> int:
    """A 64-bit number that depends on every bit of both; the order of the two matters.

    Args:
        first: taken modulo 2^64, for example an account id.
        second: taken modulo 2^64, for example a session_no.
    """
    return _finalise((_finalise((first + _GOLDEN) & _MASK) + second) & _MASK)


def mix_session(account_id: int, session_no: int) -> int:
    """One session's share of `KeepAliveRequest.session_digest`."""
    return mix64(account_id, session_no)


def mix_version(account_id: int, generation: int, version: int) -> int:
    """One watched account's share of `WatchResponse.digest`."""
    return mix64(mix64(account_id, generation), version)


def settle_digest(batch_id: int, hints: Iterable[tuple[int, int, bool]]) -> bytes:
    """What `DeliverRequest.done_digests` says of a batch whose hints are settled; 16 bytes.

    Args:
        batch_id: outbox.batch_id.
        hints: (account id, timeline_seq, pushable) of each, in any order.
    """
    hasher = blake2s(_BATCH.pack(batch_id), digest_size=SETTLE_DIGEST_BYTES)
    pack = _HINT.pack
    hasher.update(b"".join([pack(*hint) for hint in sorted(hints)]))
    return hasher.digest()
