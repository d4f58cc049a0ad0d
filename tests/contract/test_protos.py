"""Rules of the contract that buf cannot hold: joinable frames, named callers, told errors."""

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from chatmesh import errors
from chatmesh.mesh.v1 import callers_pb2, node_pb2, sync_pb2
from chatmesh.v1 import session_pb2
from tests.contract.descriptors import mesh_methods, public_methods

PROTOS = Path(__file__).parents[2] / "protos"
SERVICES = {"chat_svc", "sequencer_svc", "presence_svc", "sync_svc", "push_svc"}
CALLERS = SERVICES | {"cli"}
SERVED_BY = {
    "ChatNodeService": "chat_svc", "SequencerService": "sequencer_svc",
    "PresenceService": "presence_svc", "SyncService": "sync_svc", "PushService": "push_svc",
}  # fmt: skip


@pytest.mark.parametrize(
    "field", list(session_pb2.ServerFrame.DESCRIPTOR.fields), ids=lambda field: field.name
)
def test_every_field_of_server_frame_is_repeated_of_a_message(field: FieldDescriptor) -> None:
    """Waiting frames are joined by joining their bytes: singular fields would merge."""
    assert field.is_repeated
    assert field.message_type is not None
    assert field.containing_oneof is None


def test_joined_server_frames_are_the_frames_one_after_the_other() -> None:
    """What the rule is for, on the fields where merging was seen to lose a value."""
    one = session_pb2.ServerFrame(pong=[session_pb2.Pong(unread=3)])
    two = session_pb2.ServerFrame(
        pong=[session_pb2.Pong(unread=0)], typing=[session_pb2.Typing(active=True)]
    )
    joined = session_pb2.ServerFrame.FromString(one.SerializeToString() + two.SerializeToString())
    assert [pong.unread for pong in joined.pong] == [3, 0]
    assert len(joined.typing) == 1


@pytest.mark.parametrize(
    "message",
    [
        node_pb2.DeliverRequest.DESCRIPTOR, node_pb2.DeliverResponse.DESCRIPTOR,
        sync_pb2.EnqueueRequest.DESCRIPTOR, sync_pb2.EnqueueResponse.DESCRIPTOR,
    ],
    ids=lambda message: message.name,
)  # fmt: skip
def test_joined_mesh_frames_have_repeated_fields_only(message: Descriptor) -> None:
    assert all(field.is_repeated for field in message.fields)


def _path_only(value: object) -> str:
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("path", "method"), list(mesh_methods().items()), ids=_path_only)
def test_every_mesh_method_names_its_callers(path: str, method: MethodDescriptor) -> None:
    named = list(method.GetOptions().Extensions[callers_pb2.callers])
    assert named, f"{path} names no callers: nobody could call it"
    assert set(named) <= CALLERS
    assert len(set(named)) == len(named)
    server = SERVED_BY[method.containing_service.name]
    if server != "chat_svc":  # nodes call each other; no other service calls its own replicas
        assert server not in named


def test_no_public_method_names_callers() -> None:
    """The public face is for tokens; a caller there would promise what nobody checks."""
    for path, method in public_methods().items():
        assert not method.GetOptions().Extensions[callers_pb2.callers], path


def told_errors() -> list[tuple[str, str]]:
    """(file and RPC, reason) of every `Errors: A, B.` in the comments."""
    found: list[tuple[str, str]] = []
    for file in sorted(PROTOS.rglob("*.proto")):
        comment = ""
        for line in file.read_text(encoding="utf-8").splitlines():
            stripped = line.strip()
            if stripped.startswith("//"):
                comment += stripped.removeprefix("//")
                continue
            if stripped.startswith("rpc ") and "Errors:" in comment:
                name = stripped.split("(")[0].removeprefix("rpc ")
                reasons = re.findall(r"\b[A-Z][A-Z_]{3,}\b", comment.split("Errors:")[1])
                found.extend((f"{file.name}:{name}", reason) for reason in reasons)
            comment = ""
    return found


@pytest.mark.parametrize(("where", "reason"), told_errors(), ids=str)
def test_every_error_told_of_an_rpc_is_in_the_error_table(where: str, reason: str) -> None:
    if reason.endswith("_"):  # TOKEN_*, KEY_*
        assert any(known.startswith(reason) for known in errors.BY_REASON)
    else:
        assert reason in errors.BY_REASON
