"""Digests of sets: XOR of well mixed 64-bit numbers, kept up to date with one operation a change.

Two sides that should hold the same set compare its count and digest. XOR makes the digest
independent of order and its own inverse, so adding and taking away are the same operation.

Pure. Other implementations must give the same numbers; the vectors:

    mix64(0, 0)               = 0x48218226FF3CD4BF
    mix64(1, 0)               = 0xDCE423FC82C0D5B8
    mix64(0, 1)               = 0xEA8568D2E45FD6CB
    mix64(2^63 - 1, 2^53)     = 0xB350CC82DF2CD641
    mix_version(5, 6, 7)      = 0x37F84575EA61526B

The mixing function is the finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable
pseudorandom number generators", OOPSLA 2014), applied once per argument.
"""

from typing import Final

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
