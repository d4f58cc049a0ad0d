"""An erased account leaves no key; the others' stay."""

from redis.asyncio import Redis

from presence_svc.store import keys
from presence_svc.store.accounts import AccountStore
from presence_svc.store.nodes import NodeStore
from presence_svc.store.records import Record
from tests.presence.parts import NOW_MS, came, node, went
from tests.presence.test_store import ALICE, BOB, A, read


async def test_what_is_known_of_an_erased_account_is_deleted(
    accounts: AccountStore, nodes: NodeStore, client: Redis
) -> None:
    await nodes.beat(node(A))
    await accounts.attach(A, [came(ALICE, 1), came(BOB, 2)], NOW_MS)
    await accounts.detach(A, [went(ALICE, 1)], NOW_MS)
    assert await client.exists(keys.account(ALICE)) == 1  # its end is kept as a fence
    for _ in range(2):
        await accounts.forget([ALICE])
        assert await client.exists(keys.account(ALICE)) == 0
    assert await read(accounts, ALICE) == Record()
    assert (await read(accounts, BOB)).sessions
