"""What a notification says, within what privacy allows. Pure.

Rules: the provider is a third party. ID_ONLY gives it identifiers only, SENDER also who wrote,
FULL also what. Texts are cut on code points and hold no control characters.
"""

import hashlib
import unicodedata
from dataclasses import dataclass, field

from push_svc.decide import Entry, Fire, Job, Privacy

MAX_TITLE_CODE_POINTS = 80
MAX_BODY_CODE_POINTS = 240
MAX_BODY_BYTES = 1_024
"""FCM, APNs and Web Push all take 4 KiB in all; scripts of 4-byte characters stay below it."""
MAX_LINES = 3
ELLIPSIS = "…"

_TEXTS = {
    "de": ("Neue Nachricht", "{count} neue Nachrichten"),
    "en": ("New message", "{count} new messages"),
    "es": ("Nuevo mensaje", "{count} mensajes nuevos"),
    "fr": ("Nouveau message", "{count} nouveaux messages"),
    "it": ("Nuovo messaggio", "{count} nuovi messaggi"),
    "nl": ("Nieuw bericht", "{count} nieuwe berichten"),
    "pt": ("Nova mensagem", "{count} novas mensagens"),
}


@dataclass(frozen=True, slots=True)
class Notification:
    """One request to a provider."""

    key: str
    """Equal for repetitions of one notification after a crash: a provider shows it once."""
    collapse: str
    """A newer notification with the same one replaces it; `key` unless the sender chose one."""
    visible: bool
    title: str
    body: str
    badge: int
    high_priority: bool
    ttl_seconds: int
    data: dict[str, str] = field(default_factory=dict)
    """For the app: identifiers, no content."""


def render(
    job: Job, fire: Fire, privacy: Privacy, *, ttl_seconds: int, summary_over: int
) -> Notification:
    """Render one notification.

    Args:
        privacy: as it applies to this device; not DEFAULT.
        ttl_seconds: how long the provider keeps it for a device that is away.
        summary_over: more new messages than this are told by their number alone.
    """
    key = _key(job, fire)
    newest = fire.entries[-1] if fire.entries else None
    title, body = "", ""
    if fire.visible:
        title, body = _texts(fire, privacy, job.binding.locale, summary_over)
    return Notification(
        key=key,
        collapse=_collapse(job, newest) if newest is not None and newest.collapse_key else key,
        visible=fire.visible,
        title=title,
        body=body,
        badge=fire.badge,
        high_priority=any(entry.high_priority or entry.mention for entry in fire.entries),
        ttl_seconds=ttl_seconds,
        data=_data(job, fire, newest),
    )


def _key(job: Job, fire: Fire) -> str:
    """Names "what comes after what this device was told last": the same until it is noted."""
    parts = ("visible", job.binding.pushed_seq) if fire.visible else ("silent", job.claim)
    return _hashed(job.account_id, job.device_id, *parts)


def _collapse(job: Job, newest: Entry) -> str:
    return _hashed(job.account_id, newest.conversation_id, newest.collapse_key)


def _hashed(*parts: object) -> str:
    text = "\x1f".join(map(str, parts))
    return hashlib.blake2s(text.encode(), digest_size=16).hexdigest()


def _data(job: Job, fire: Fire, newest: Entry | None) -> dict[str, str]:
    data = {"kind": "message" if fire.visible else "sync", "badge": str(fire.badge)}
    if newest is not None:
        data["conversation_id"] = str(newest.conversation_id)
        data["message_id"] = str(newest.message_id)
        data["timeline_seq"] = str(newest.timeline_seq)
        data["count"] = str(fire.count)
    if fire.dismiss_seq:
        data["read_up_to_timeline_seq"] = str(fire.dismiss_seq)
    return data


def _texts(fire: Fire, privacy: Privacy, locale: str, summary_over: int) -> tuple[str, str]:
    one, many = _TEXTS.get(locale.partition("-")[0].lower(), _TEXTS["en"])
    counted = one if fire.count == 1 else many.format(count=fire.count)
    if privacy is Privacy.ID_ONLY:
        return "", counted
    title = _title(fire.entries)
    if privacy is Privacy.SENDER or fire.count > summary_over:
        return title, counted
    lines = [_line(entry, fire.entries, one) for entry in fire.entries[-MAX_LINES:]]
    return title, cut("\n".join(lines), MAX_BODY_CODE_POINTS, MAX_BODY_BYTES)


def _title(entries: tuple[Entry, ...]) -> str:
    """The group, or whoever wrote; several names when there are several."""
    names = dict.fromkeys(clean(entry.title or entry.sender_user_id) for entry in entries)
    return cut(", ".join(names), MAX_TITLE_CODE_POINTS, MAX_BODY_BYTES)


def _line(entry: Entry, entries: tuple[Entry, ...], no_text: str) -> str:
    text = clean(entry.text) or no_text
    by_several = entry.title or len({other.sender_user_id for other in entries}) > 1
    return f"{clean(entry.sender_user_id)}: {text}" if by_several else text


def clean(text: str) -> str:
    """Without control characters and bidirectional overrides; white space becomes one space."""
    kept = "".join(
        character if not _is_hidden(character) else " " if character.isspace() else ""
        for character in text
    )
    return " ".join(kept.split())


def _is_hidden(character: str) -> bool:
    # Cf holds the bidirectional overrides, but also the joiners that emoji and scripts need
    category = unicodedata.category(character)
    return category == "Cc" or (category == "Cf" and character not in "\u200c\u200d")


def cut(text: str, code_points: int, size_bytes: int) -> str:
    """At most so many code points and bytes, the ellipsis of a cut text included."""
    if len(text) <= code_points and len(text.encode()) <= size_bytes:
        return text
    room = size_bytes - len(ELLIPSIS.encode())
    kept = text[: code_points - 1].encode()[:room].decode("utf-8", "ignore")
    return kept.rstrip() + ELLIPSIS
