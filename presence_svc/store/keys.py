"""Names of keys in Redis; their meaning is in KEYS.md.

Hash tags: everything about nodes shares one slot, accounts are spread over BUCKETS tags. So a
script's keys lie in one slot, and thousands of accounts are one command per bucket.
"""

from typing import Final

BUCKETS: Final = 64
"""Never changed while data exist: an account's bucket follows from it."""

GENERATION: Final = "cm:p:{nodes}:generation"
ALIVE: Final = "cm:p:{nodes}:alive"
WARMING: Final = "cm:p:{nodes}:warming"
NODES: Final = "cm:p:{nodes}:all"
LEASE_PREFIX: Final = "cm:p:{nodes}:lease:"
CHANGES: Final = "cm:p:changes"
"""Channel, not a key: PUBLISH reaches every replica, in Cluster too."""


def bucket_of(account_id: int) -> int:
    """The bucket of an account. The low bits of a Snowflake are its sequence: they spread evenly
    only under load, so the higher ones are folded in."""
    return (account_id ^ (account_id >> 12) ^ (account_id >> 22)) % BUCKETS


def lease(node_id: int) -> str:
    """Lease of a node."""
    return f"{LEASE_PREFIX}{node_id}"


def reaping(node_id: int) -> str:
    """Mark of the replica that takes a dead node's sessions away."""
    return f"cm:p:{{nodes}}:reaping:{node_id}"


def account(account_id: int) -> str:
    """Record of an account."""
    return f"cm:p:{{{bucket_of(account_id):02x}}}:a:{account_id}"


def sessions(bucket: int, node_id: int) -> str:
    """Sessions that a node holds within a bucket."""
    return f"cm:p:{{{bucket:02x}}}:n:{node_id}"


def holding(bucket: int, node_id: int) -> str:
    """Count and digest of a node's sessions within a bucket."""
    return f"cm:p:{{{bucket:02x}}}:h:{node_id}"


def changes(bucket: int) -> str:
    """Count of changes within a bucket."""
    return f"cm:p:{{{bucket:02x}}}:c"
