"""Events as lines for people and as JSON for scripts; shared by `tail` and `history`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from chatmesh.cli.plain import local_time, shown

if TYPE_CHECKING:
    from chatmesh.client import Event


def line(event: Event) -> str:
    """`2026-11-25 00:45:58 alice: hello`"""
    return f"{local_time(event.created_at_ms)} {shown(event.sender)}: {_said(event)}"


def _said(event: Event) -> str:
    from chatmesh import client as sdk

    match event.content:
        case None:
            return "(deleted)"
        case sdk.Text(body):
            return shown(body)
        case sdk.Data(media_type, body):
            return f"({shown(media_type)}, {len(body)} bytes)"
        case sdk.Edit(target, sdk.Text(body)):
            return f"(edits {target}) {shown(body)}"
        case sdk.Edit(target, _):
            return f"(edits {target})"
        case sdk.Delete(target):
            return f"(deletes {target})"
        case sdk.Reaction(target, reaction, removed):
            return f"({'takes back' if removed else 'reacts'} {shown(reaction)} on {target})"
        case sdk.Pin(target, removed):
            return f"({'unpins' if removed else 'pins'} {target})"
        case _:
            return _said_by_server(event)


def _said_by_server(event: Event) -> str:
    from chatmesh import client as sdk

    match event.content:
        case sdk.Membership(change, users, _):
            return f"({change.name.lower()} {', '.join(map(shown, users))})"
        case sdk.ConversationChange(_, title, _):
            return f"(changes the group{': ' + shown(title) if title else ''})"
        case sdk.AccountChange(subject, user, state):
            return f"({shown(subject)}: {shown(user)} {shown(state)})"
        case _:
            return "(a kind of message that this release does not know)"


def document(event: Event, **more: Any) -> dict[str, Any]:
    """An event as JSON. Ids and positions are numbers; 64-bit ones may exceed what JavaScript
    holds, so ids are given as strings."""
    values: dict[str, Any] = {
        **more,
        "message_id": str(event.message_id),
        "conversation_id": str(event.conversation_id),
        "conversation_seq": event.conversation_seq,
        "message_no": event.message_no,
        "sender": event.sender,
        "peer": event.peer,
        "created_at_ms": event.created_at_ms,
    }
    return {**values, **_content(event)}


def _content(event: Event) -> dict[str, Any]:
    from chatmesh import client as sdk

    match event.content:
        case None:
            return {"kind": "erased"}
        case sdk.Text(body):
            return {"kind": "text", "text": body}
        case sdk.Data(media_type, body):
            encoded = base64.b64encode(body).decode()
            return {"kind": "data", "media_type": media_type, "data": encoded}
        case sdk.Edit(target, sdk.Text(body)):
            return {"kind": "edit", "target": target, "text": body}
        case sdk.Reaction(target, reaction, removed):
            kind = {"kind": "reaction", "target": target}
            return {**kind, "reaction": reaction, "removed": removed}
        case sdk.Membership(change, users, _):
            return {"kind": "membership", "change": change.name.lower(), "users": list(users)}
        case other:
            about = getattr(other, "target_conversation_seq", None)
            kind = {"kind": type(other).__name__.lower()}
            return kind if about is None else {**kind, "target": about}
