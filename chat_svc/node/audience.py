"""Who may see something of a user: presence asked for once, and who sees them type.

The same rule as for what sessions watch (`core.visibility`): contacts only, and by the user's own
privacy; blocking hides both ways. Who is shown nothing is not told so: an unknown user, a stranger,
a blocking one and one who is offline look alike.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from chat_svc.core.visibility import Audiences, Facts, Relation, visible
from chat_svc.node.resolver import Resolver
from chat_svc.node.watching import ContactRows, PrivacyRows, presence_of
from chatmesh.mesh.v1.presence_pb2 import GetFactsRequest, GetFactsResponse
from chatmesh.v1.contacts_pb2 import AUDIENCE_CONTACTS
from chatmesh.v1.session_pb2 import Presence
from chatmesh.v1.types_pb2 import PresenceState

_OFFLINE = Facts(PresenceState.PRESENCE_STATE_OFFLINE)


class Audience:
    """See the module's text."""

    def __init__(
        self,
        contacts: ContactRows,
        privacy: PrivacyRows,
        resolver: Resolver,
        get_facts: Callable[[GetFactsRequest], Awaitable[GetFactsResponse]],
    ) -> None:
        self._contacts = contacts
        self._privacy = privacy
        self._resolver = resolver
        self._get_facts = get_facts

    async def presence_of(self, tenant: str, viewer: int, users: Sequence[str]) -> list[Presence]:
        """Presence of users as an account may see it, in the order asked, each once.

        Raises what the store raises, and grpc.aio.AioRpcError when presence is away.
        """
        rows = await self._resolver.find_accounts(tenant, users)
        pairs = [(viewer, row.id) for row in rows.values() if row.id != viewer]
        contacts = {other for _, other in await self._contacts.contact_pairs(pairs)}
        seen = sorted(row.id for row in rows.values() if row.id in contacts or row.id == viewer)
        privacy = await self._privacy.privacy(seen) if seen else {}
        # asked even where nobody may be seen: while presence is away, the blocked are answered as
        # contacts are
        answer = await self._get_facts(GetFactsRequest(account_ids=seen or [viewer]))
        shown: dict[int, Facts] = {}
        for fact in answer.facts:
            account = fact.account_id
            relation = Relation(is_self=account == viewer, is_contact=account in contacts)
            facts = Facts(fact.state, fact.last_seen_ms, fact.status_text, tuple(fact.online_kinds))
            mine = privacy.get(account)
            audiences = Audiences(mine.presence, mine.last_seen) if mine else Audiences()
            shown[account] = visible(facts, relation, audiences)
        return [
            presence_of(user, shown.get(rows[user].id, _OFFLINE) if user in rows else _OFFLINE)
            for user in dict.fromkeys(users)
        ]

    async def sees_typing(self, members: Mapping[int, Collection[int]]) -> dict[int, set[int]]:
        """Per account that types: those of `members` who may see it."""
        pairs = [(one, other) for one, others in members.items() for other in others]
        contacts = await self._contacts.contact_pairs(
            [pair for pair in pairs if pair[0] != pair[1]]
        )
        privacy = await self._privacy.privacy(sorted(members))
        told: dict[int, set[int]] = {account: set() for account in members}
        for one, other in contacts:
            if one in privacy and privacy[one].typing == AUDIENCE_CONTACTS:
                told[one].add(other)
        return told
