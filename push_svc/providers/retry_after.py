"""The header Retry-After (RFC 9110, section 10.2.3)."""

import email.utils
import time


def seconds_of(retry_after: str | None) -> float | None:
    """Seconds, from a number or a date; None when there is none or it is unusable."""
    if not retry_after:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, at.timestamp() - time.time())
