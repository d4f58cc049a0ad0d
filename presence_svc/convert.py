"""Contract ↔ values, with the checks of what comes in. No rule and no I/O."""

import re
from collections.abc import Sequence

from chatmesh import errors
from chatmesh.mesh.v1 import presence_pb2 as pb
from chatmesh.v1 import types_pb2
from presence_svc.merge import WISHES, Session, State
from presence_svc.store.accounts import Attachment, ToldWish
from presence_svc.store.records import Held, Node, View
from presence_svc.watch import Notice

MAX_FORGOTTEN = 1_000
MAX_LOOKUP_ACCOUNTS = 10_000
MAX_ATTACH_SESSIONS = 10_000
MAX_WATCH_ACCOUNTS = 100_000
"""Per request; more come in more requests."""
MAX_STATUS_CODE_POINTS = 140
MAX_NODE_NAME_BYTES = 255
MAX_SESSION_NO = 1 << 53
"""Lua compares session numbers as doubles."""
MAX_ID = 1 << 63

_DEVICE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def node_of(ref: pb.NodeRef) -> Node:
    """A node that beats. Raises Fault INVALID_FIELD."""
    if not 0 < ref.node_id < MAX_ID:
        raise errors.INVALID_FIELD("node_id is the id of a chat node", field="node.node_id")
    for field, value in (("node.target", ref.target), ("node.name", ref.name)):
        if len(value.encode()) > MAX_NODE_NAME_BYTES:
            raise errors.INVALID_FIELD(f"{field} is at most 255 bytes", field=field)
    if not ref.target:
        raise errors.INVALID_FIELD("a node says where it listens", field="node.target")
    return Node(ref.node_id, ref.target, ref.name)


def attachments_of(records: Sequence[pb.SessionRecord]) -> list[Attachment]:
    """Sessions that came. Raises Fault INVALID_FIELD, LIMIT_EXCEEDED."""
    _check_size("attached", len(records), MAX_ATTACH_SESSIONS)
    for record in records:
        _check_session(record)
    return [
        Attachment(
            record.account_id,
            Session(0, record.device_id, record.session_no, int(record.device_kind), record.active),
        )
        for record in records
    ]


def held_of(records: Sequence[pb.SessionRecord]) -> list[Held]:
    """Sessions that went. Raises Fault INVALID_FIELD, LIMIT_EXCEEDED."""
    _check_size("detached", len(records), MAX_ATTACH_SESSIONS)
    for record in records:
        _check_session(record)
    return [Held(record.account_id, record.device_id, record.session_no) for record in records]


def superseded(attachments: Sequence[Attachment]) -> list[pb.SessionRecord]:
    """Sessions that their node must close."""
    return [
        pb.SessionRecord(
            account_id=item.account_id,
            device_id=item.session.device_id,
            session_no=item.session.session_no,
            device_kind=types_pb2.DeviceKind.ValueType(item.session.kind),
            active=item.session.active,
        )
        for item in attachments
    ]


def check_lookup(request: pb.LookupSessionsRequest | pb.GetFactsRequest) -> None:
    """Raises Fault LIMIT_EXCEEDED, INVALID_FIELD."""
    _check_size("account_ids", len(request.account_ids), MAX_LOOKUP_ACCOUNTS)
    check_accounts(request.account_ids, "account_ids")


def forgotten(request: pb.ForgetRequest) -> Sequence[int]:
    """Accounts that were erased. Raises Fault LIMIT_EXCEEDED, INVALID_FIELD."""
    _check_size("account_ids", len(request.account_ids), MAX_FORGOTTEN)
    check_accounts(request.account_ids, "account_ids")
    return request.account_ids


def check_accounts(account_ids: Sequence[int], field: str) -> None:
    """Raises Fault INVALID_FIELD when one cannot be an account's."""
    if account_ids and (min(account_ids) < 1 or max(account_ids) >= MAX_ID):
        raise errors.INVALID_FIELD("not the id of an account", field=field)


def check_watch(request: pb.WatchRequest) -> None:
    """Raises Fault LIMIT_EXCEEDED, INVALID_FIELD."""
    for field, accounts in (
        ("add_account_ids", request.add_account_ids),
        ("remove_account_ids", request.remove_account_ids),
    ):
        _check_size(field, len(accounts), MAX_WATCH_ACCOUNTS)
        check_accounts(accounts, field)


def routes_of(
    request: pb.LookupSessionsRequest, view: View, *, unknown: bool
) -> pb.LookupSessionsResponse:
    """The answer to a lookup: routes on live nodes only, accounts in the order asked."""
    response = pb.LookupSessionsResponse(request_id=request.request_id, unknown=unknown)
    named: set[int] = set()
    for account_id in request.account_ids:
        account = response.accounts.add(account_id=account_id)
        for session in view.live_sessions(view.records[account_id]):
            named.add(session.node_id)
            account.routes.add(
                node_id=session.node_id,
                device_id=session.device_id,
                session_no=session.session_no,
                active=session.active,
            )
    for node_id in sorted(named):
        node = view.nodes[node_id]
        response.nodes.add(node_id=node_id, target=node.target, name=node.name)
    return response


def fact_of(notice: Notice) -> pb.PresenceFact:
    """One account as a watching node is told of it."""
    fact = notice.fact
    return pb.PresenceFact(
        account_id=notice.account_id,
        state=types_pb2.PresenceState.ValueType(fact.state),
        online_kinds=[types_pb2.DeviceKind.ValueType(kind) for kind in fact.online_kinds],
        last_seen_ms=fact.last_seen_ms,
        status_text=fact.status_text,
        generation=notice.generation,
        version=notice.version,
    )


def wish_of(request: pb.SetStateRequest) -> ToldWish:
    """A wish that came. Raises Fault INVALID_FIELD for what cannot be one."""
    _check_state(request)
    return ToldWish(
        request.account_id,
        int(request.state),
        request.status_text if request.HasField("status_text") else None,
        request.status_until_ms,
        request.wish_no,
    )


def wishes_of(requests: Sequence[pb.SetStateRequest]) -> list[ToldWish]:
    """Wishes that came with attachments. Raises Fault INVALID_FIELD, LIMIT_EXCEEDED."""
    _check_size("wishes", len(requests), MAX_ATTACH_SESSIONS)
    return [wish_of(request) for request in requests]


def _check_state(request: pb.SetStateRequest) -> None:
    check_accounts((request.account_id,), "account_id")
    state = int(request.state)
    if state != State.UNKNOWN and state not in WISHES:
        raise errors.INVALID_FIELD(
            "state is ONLINE, DO_NOT_DISTURB or INVISIBLE; the others follow from sessions",
            field="state",
        )
    if len(request.status_text) > MAX_STATUS_CODE_POINTS:
        raise errors.INVALID_FIELD(
            f"a status text is at most {MAX_STATUS_CODE_POINTS} code points", field="status_text"
        )
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in request.status_text):
        raise errors.INVALID_FIELD("a status text holds no control characters", field="status_text")
    if request.status_until_ms < 0:
        raise errors.INVALID_FIELD("Unix milliseconds, or 0 = never", field="status_until_ms")
    if request.wish_no >= MAX_SESSION_NO:
        raise errors.INVALID_FIELD("a wish's number is below 2^53", field="wish_no")


def _check_session(record: pb.SessionRecord) -> None:
    check_accounts((record.account_id,), "account_id")
    if not _DEVICE_ID.fullmatch(record.device_id):
        raise errors.BAD_DEVICE_ID()
    if not 0 < record.session_no < MAX_SESSION_NO:
        raise errors.INVALID_FIELD("a session number is 1 to 2^53 - 1", field="session_no")


def _check_size(field: str, size: int, limit: int) -> None:
    if size > limit:
        raise errors.LIMIT_EXCEEDED(
            f"{field} holds at most {limit:,} per request", limit=field, value=limit, size=size
        )
