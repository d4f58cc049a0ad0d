"""What a client may say: each limit at −1, 0 and +1, each reason of the error table."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_svc.core.content import KINDS, Checked, EventFlags, check, content_hash, trace_field
from chat_svc.core.limits import Limits
from chatmesh.runtime.faults import Fault
from chatmesh.v1 import types_pb2
from chatmesh.v1.types_pb2 import Content, Event, OutgoingMessage
from tests.chat_core.builders import WALL_MS, key, message

LIMITS = Limits()
DAY_MS = 86_400_000


def accepted(made: OutgoingMessage, limits: Limits = LIMITS) -> tuple[Checked, Event]:
    checked = check(made, limits, WALL_MS)
    return checked, Event.FromString(checked.body)


def refused(made: OutgoingMessage, limits: Limits = LIMITS) -> Fault:
    with pytest.raises(Fault) as caught:
        check(made, limits, WALL_MS)
    return caught.value


def with_content(**kind: object) -> OutgoingMessage:
    made = message()
    made.content.CopyFrom(Content(**kind))  # type: ignore[arg-type]
    return made


@given(st.text(min_size=1, max_size=200).filter(lambda text: text.isprintable()))
def test_a_plain_text_becomes_an_event_with_the_same_content(text: str) -> None:
    made = message(text)
    checked, event = accepted(made)
    assert event == Event(content=made.content)
    assert checked.content_size == len(checked.body)
    assert checked.flags == EventFlags.VISIBLE | EventFlags.NOTIFIES
    assert (checked.kind, checked.target_seq, checked.expires_at_ms) == (1, 0, 0)
    assert checked.to_user == "bob"


def test_everything_a_message_may_carry_is_carried() -> None:
    made = message(
        reply_to_conversation_seq=4, silent=True, expires_at_ms=WALL_MS + 1, encrypted=True
    )
    made.metadata.update({"a": "1", "b": "2"})
    made.mention_user_ids.extend(["carol", "dave", "carol"])
    made.attachments.add(
        uri="https://files.example/x", media_type="image/png", size_bytes=3, sha256=b"s" * 32
    )
    made.forwarded_from.user_id = "erin"
    made.thread_root_conversation_seq = 2
    made.trace_context = b"t" * 25
    checked, event = accepted(made)
    expected = Event(
        content=made.content,
        reply_to_conversation_seq=4,
        silent=True,
        expires_at_ms=WALL_MS + 1,
        encrypted=True,
        metadata={"a": "1", "b": "2"},
        mention_user_ids=["carol", "dave", "carol"],
        attachments=made.attachments,
        forwarded_from=made.forwarded_from,
        thread_root_conversation_seq=2,
    )
    assert event == expected
    assert Event.FromString(checked.body[checked.content_size :]).HasField("content") is False
    assert checked.mentions == ("carol", "dave")
    assert checked.target_seq == 4
    assert checked.flags == EventFlags.VISIBLE
    assert checked.trace == b"t" * 25
    assert Event.FromString(checked.body + trace_field(checked.trace)).trace_context == b"t" * 25


def test_unknown_fields_are_left_behind() -> None:
    hidden = b"\xfa\x3f\x06hidden"  # field 1023, unknown everywhere
    made = OutgoingMessage.FromString(message().SerializeToString() + hidden)
    text = types_pb2.TextContent.FromString(
        types_pb2.TextContent(body="hi").SerializeToString() + hidden
    )
    made.content.text.MergeFrom(text)
    checked, _ = accepted(made)
    assert b"hidden" not in checked.body


def test_a_message_of_the_plain_size_with_another_field_is_not_taken_for_plain() -> None:
    # A shorter destination makes room for `silent`: sizes alone must not hide it.
    made = message(silent=True)
    made.to_user_id = "bo"
    checked, event = accepted(made)
    assert event.silent
    assert not checked.flags & EventFlags.NOTIFIES


def attach(made: OutgoingMessage, **spoiled: object) -> None:
    good = {"uri": "https://files.example/x", "media_type": "image/png", "sha256": b"h" * 32}
    made.attachments.add(**{**good, **spoiled})


BAD: list[tuple[str, Callable[[OutgoingMessage], object], str]] = [
    ("no key", lambda m: m.ClearField("idempotency_key"), "KEY_INVALID"),
    ("short key", lambda m: setattr(m, "idempotency_key", key()[:15]), "KEY_INVALID"),
    ("uuid 4", lambda m: setattr(m, "idempotency_key", b"\x40" * 16), "KEY_INVALID"),
    ("bad variant", lambda m: setattr(m, "idempotency_key", b"\x70" * 16), "KEY_INVALID"),
    ("no destination", lambda m: m.ClearField("to"), "NO_DESTINATION"),
    ("long user", lambda m: setattr(m, "to_user_id", "u" * 129), "NOT_REACHABLE"),
    ("huge conversation", lambda m: setattr(m, "conversation_id", 1 << 63), "NOT_A_MEMBER"),
    ("no content", lambda m: m.ClearField("content"), "CONTENT_EMPTY"),
    ("empty content", lambda m: m.content.Clear(), "CONTENT_EMPTY"),
    ("empty text", lambda m: setattr(m.content.text, "body", ""), "CONTENT_EMPTY"),
    ("NUL", lambda m: setattr(m.content.text, "body", "a\x00b"), "CONTENT_INVALID"),
    ("escape", lambda m: setattr(m.content.text, "body", "\x1b[2J"), "CONTENT_INVALID"),
    ("membership", lambda m: m.content.membership.SetInParent(), "CONTENT_UNSUPPORTED"),
    ("later kind", lambda m: m.content.ParseFromString(b"\xa2\x01\x00"), "CONTENT_UNSUPPORTED"),
    ("edit of nothing", lambda m: m.content.edit.text.SetInParent(), "CONTENT_EMPTY"),
    ("edit without body", lambda m: m.content.edit.SetInParent(), "CONTENT_EMPTY"),
    ("delete of nothing", lambda m: m.content.delete.SetInParent(), "TARGET_UNKNOWN"),
    ("reaction without", lambda m: m.content.reaction.SetInParent(), "INVALID_FIELD"),
    ("empty data", lambda m: m.content.data.SetInParent(), "CONTENT_EMPTY"),
    ("no media type", lambda m: setattr(m.content.data, "body", b"x"), "INVALID_FIELD"),
    ("past expiry", lambda m: setattr(m, "expires_at_ms", WALL_MS), "INVALID_FIELD"),
    ("huge reply", lambda m: setattr(m, "reply_to_conversation_seq", 1 << 63), "TARGET_UNKNOWN"),
    ("empty mention", lambda m: m.mention_user_ids.append(""), "INVALID_FIELD"),
    ("http attachment", lambda m: m.attachments.add(uri="http://x"), "INVALID_FIELD"),
    ("short hash", lambda m: attach(m, sha256=b"h" * 31), "INVALID_FIELD"),
    ("long hash", lambda m: attach(m, sha256=b"h" * 33), "INVALID_FIELD"),
    ("negative size", lambda m: attach(m, size_bytes=-1), "INVALID_FIELD"),
    ("attachment of no type", lambda m: attach(m, media_type=""), "INVALID_FIELD"),
    ("long collapse key", lambda m: setattr(m.push, "collapse_key", "k" * 65), "INVALID_FIELD"),
]


@pytest.mark.parametrize(("spoil", "reason"), [row[1:] for row in BAD], ids=[r[0] for r in BAD])
def test_bad_messages_are_refused(spoil: Callable[[OutgoingMessage], object], reason: str) -> None:
    made = message()
    spoil(made)
    assert refused(made).reason == reason


@pytest.mark.parametrize("text", ["a\tb\nc\r\n", "ünïcode 🎉", "e" + "\u0301" * 9, "\u202ebidi"])
def test_text_is_never_edited(text: str) -> None:
    _, event = accepted(message(text))
    assert event.content.text.body == text


def test_sizes_at_their_limits() -> None:
    limits = replace(LIMITS, max_content_bytes=256, max_text_code_points=100)
    accepted(message("x" * 100), limits)
    assert refused(message("x" * 101), limits).reason == "CONTENT_TOO_LARGE"
    accepted(message("\u20ac" * 85), limits)
    assert refused(message("\u20ac" * 86), limits).metadata == {
        "limit": "max_content_bytes",
        "value": "256",
        "size": "258",
    }
    data = types_pb2.DataContent(media_type="application/x-mls-message", body=b"x" * 256)
    checked, event = accepted(with_content(data=data), limits)
    assert event.content.data == data
    assert checked.kind == 2
    data.body += b"x"
    assert refused(with_content(data=data), limits).reason == "CONTENT_TOO_LARGE"


def test_lists_at_their_limits() -> None:
    made = message()
    made.metadata.update({str(n): "" for n in range(LIMITS.max_metadata_pairs)})
    accepted(made)
    made.metadata["more"] = ""
    assert refused(made).metadata["field"] == "metadata"
    made = message()
    made.metadata["k"] = "v" * (LIMITS.max_metadata_bytes - 1)
    accepted(made)
    made.metadata["k"] += "v"
    assert refused(made).reason == "INVALID_FIELD"
    made = message()
    made.mention_user_ids.extend(f"u{n}" for n in range(LIMITS.max_mentions))
    accepted(made)
    made.mention_user_ids.append("more")
    assert refused(made).reason == "INVALID_FIELD"


def test_keys_are_remembered_for_days_and_the_server_tells_its_time() -> None:
    oldest = WALL_MS - LIMITS.key_age_days * DAY_MS
    newest = WALL_MS + LIMITS.key_ahead_seconds * 1000
    for made_ms in (oldest, newest):
        accepted(message(idempotency_key=key(1, made_ms)))
    old = refused(message(idempotency_key=key(1, oldest - 1)))
    new = refused(message(idempotency_key=key(1, newest + 1)))
    assert (old.reason, new.reason) == ("KEY_TOO_OLD", "KEY_IN_FUTURE")
    assert old.metadata["server_time_ms"] == new.metadata["server_time_ms"] == str(WALL_MS)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (
            Content(
                edit=types_pb2.EditContent(
                    target_conversation_seq=3, text=types_pb2.TextContent(body="new")
                )
            ),
            3,
        ),
        (Content(delete=types_pb2.DeleteContent(target_conversation_seq=3)), 4),
        (
            Content(reaction=types_pb2.ReactionContent(target_conversation_seq=3, reaction="👍")),
            5,
        ),
        (Content(pin=types_pb2.PinContent(target_conversation_seq=3, removed=True)), 6),
    ],
)
def test_kinds_that_refer_to_a_message(content: Content, kind: int) -> None:
    made = message()
    made.content.CopyFrom(content)
    checked, event = accepted(made)
    assert event.content == content
    assert (checked.kind, checked.target_seq, checked.flags) == (kind, 3, 0)


def test_every_kind_of_the_table_is_a_field_of_the_contract() -> None:
    fields = {field.name: field.number for field in Content.DESCRIPTOR.fields}
    assert {name: kind.number for name, kind in KINDS.items()}.items() <= fields.items()


def test_the_content_hash_sees_content_and_conversation() -> None:
    first, _ = accepted(message("one"))
    other, _ = accepted(message("two"))
    assert content_hash(1, first.body) == content_hash(1, first.body)
    assert len({content_hash(1, first.body), content_hash(1, other.body),
                content_hash(2, first.body)}) == 3  # fmt: skip
    assert 0 < content_hash(1, first.body) >> 56 < 128


def test_metadata_in_another_order_is_the_same_content() -> None:
    one, two = message(), message()
    one.metadata["a"], one.metadata["b"] = "1", "2"
    two.metadata["b"], two.metadata["a"] = "2", "1"
    assert accepted(one)[0].body == accepted(two)[0].body


def test_push_wishes_travel_with_the_event() -> None:
    made = message("hi")
    made.push.priority = types_pb2.PushOptions.PRIORITY_NORMAL
    made.push.collapse_key = "room"
    assert accepted(made)[1].push == made.push


def test_an_unknown_priority_is_refused() -> None:
    made = message("hi")
    made.push.ParseFromString(b"\x08\x63")
    assert refused(made).reason == "INVALID_FIELD"
