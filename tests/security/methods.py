"""Every RPC of the contract, with a request that could do harm if it were let in.

A method of the contract that is missing here fails the matrix: whoever adds an RPC says what an
intruder would try with it.
"""

from google.protobuf import message_factory, text_format

from tests.contract.descriptors import mesh_methods, public_methods
from tests.raw import fill

_CHAT = "/chatmesh.v1.ChatService/"
_CONVERSATIONS = "/chatmesh.v1.ConversationService/"
_CONTACTS = "/chatmesh.v1.ContactService/"
_DEVICES = "/chatmesh.v1.DeviceService/"
_USERS = "/chatmesh.v1.UserService/"
_MESSAGE = 'idempotency_key: "$key" to_user_id: "alice" content { text { body: "let me in" } }'

PUBLIC: dict[str, str] = {
    _CHAT + "Session": 'hello { device_id: "intruder" }',
    _CHAT + "Receive": 'hello { device_id: "intruder" }',
    _CHAT + "Submit": f'session_token: "guess" frame {{ send {{ messages {{ {_MESSAGE} }} }} }}',
    _CHAT + "SendMessages": f"messages {{ {_MESSAGE} }}",
    _CHAT + "ListEntries": "page_size: 1000",
    _CHAT + "GetSnapshot": "page_size: 200",
    _CONVERSATIONS + "CreateConversation": 'idempotency_key: "$key" member_user_ids: "alice"',
    _CONVERSATIONS + "UpdateConversation": 'idempotency_key: "$key" conversation_id: 1 title: "x"',
    _CONVERSATIONS + "GetConversation": 'peer_user_id: "alice"',
    _CONVERSATIONS + "ChangeMembers": 'idempotency_key: "$key" conversation_id: 1 '
    'change: MEMBERSHIP_CHANGE_ADDED user_ids: "mallory"',
    _CONVERSATIONS + "ListMembers": "conversation_id: 1",
    _CONVERSATIONS + "ListConversations": "page_size: 200 include_archived: true",
    _CONVERSATIONS + "ListMessages": "conversation_id: 1 page_size: 200",
    _CONVERSATIONS + "SearchMessages": 'query: "password"',
    _CONVERSATIONS + "UpdateMemberState": "conversation_id: 1 read_message_no: 99",
    _CONVERSATIONS + "HideMessage": "conversation_id: 1 conversation_seq: 1",
    _CONVERSATIONS + "GetAccountState": "since_account_version: 0",
    _CONTACTS + "UpdateContact": 'idempotency_key: "$key" user_id: "alice" action: ACTION_ACCEPT',
    _CONTACTS + "ListContacts": "page_size: 1000",
    _CONTACTS + "UpdatePrivacy": "privacy { presence: AUDIENCE_CONTACTS }",
    _CONTACTS + "GetPresence": 'user_ids: "alice"',
    _DEVICES + "RegisterPushToken": 'token { device_id: "phone" provider: PUSH_PROVIDER_LOG '
    'token: "mine" }',
    _DEVICES + "UnregisterPushToken": 'device_id: "phone"',
    _DEVICES + "ListDevices": "",
    _DEVICES + "SignOut": "all: true",
    _DEVICES + "UpdateNotificationSettings": "mute: MUTE_LEVEL_ALL",
    _USERS + "GetUser": 'user_id: "alice"',
    _USERS + "UpdateUser": 'user_id: "mallory" kind: SENDER_KIND_BOT',
    _USERS + "DisableUser": 'user_id: "alice"',
    _USERS + "EnableUser": 'user_id: "mallory"',
    _USERS + "RevokeTokens": 'user_id: "alice"',
    _USERS + "DeleteUser": 'user_id: "alice"',
    _USERS + "ListAuditRecords": "page_size: 1000",
}


def public_request(path: str) -> bytes:
    """The request of a public method, as bytes."""
    kind = message_factory.GetMessageClass(public_methods()[path].input_type)
    return text_format.Parse(fill(PUBLIC[path]), kind()).SerializeToString()


def missing_from_matrix() -> set[str]:
    """Methods of the contract that the table above does not hold."""
    return public_methods().keys() - PUBLIC.keys()


def callers_by_method() -> dict[str, frozenset[str]]:
    """Mesh methods and who may call them, as the contract says."""
    from chatmesh.mesh.v1 import callers_pb2

    return {
        path: frozenset(method.GetOptions().Extensions[callers_pb2.callers])
        for path, method in mesh_methods().items()
    }
