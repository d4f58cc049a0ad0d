"""Whether an account's owner may come in: not switched off, and with a token that still counts.

Pure.
"""

from __future__ import annotations

from chatmesh import errors
from chatmesh.runtime.faults import Fault


def refusal(disabled: bool, not_before_ms: int, issued_at_ms: int) -> Fault | None:
    """Why not; None = welcome.

    Args:
        disabled: the account is switched off.
        not_before_ms: tokens issued before this were revoked; 0 = none were.
        issued_at_ms: the token's `iat`; 0 = it has none, and is older than any revocation.
    """
    if disabled:
        return errors.USER_DISABLED()
    if not_before_ms and issued_at_ms < not_before_ms:
        return errors.TOKEN_REVOKED()
    return None
