"""What push knows of an erased account goes, and what others were shown of its messages."""

from typing import Any

import psycopg

from push_svc.store.jobs import IntakeStore
from push_svc.store.records import Letter, RecordStore
from push_svc.store.tokens import TokenStore
from tests.push.parts import ALICE, BOB, target, token
from tests.runtime import stores


async def ask(url: str, query: str, *params: Any) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(query.encode(), params)
        return await cursor.fetchall() if cursor.description else []


async def test_tokens_jobs_records_and_letters_of_an_erased_account_go(
    intake: IntakeStore, tokens: TokenStore, records: RecordStore, empty: stores.Store
) -> None:
    for account, device in ((ALICE, "alices-phone"), (BOB, "bobs-phone")):
        await tokens.put(account, token(device))
        await intake.put([target(account, 5)])
        await records.put_letters(
            [Letter(0, "sync", account, device, 1, "why", 0, b"from alice-in-chains")]
        )
    shown = (
        "INSERT INTO push.push_log (account_id, device_id, provider, timeline_seq, message_id,"
        " outcome, visible, title, body, attempt)"
        " VALUES (%s, 'd', 5, 1, 1, 'sent', true, %s, %s, 1)"
    )
    await ask(empty.url, shown, ALICE, "bob", "to alice")
    await ask(empty.url, shown, BOB, "alice-in-chains", "a secret")
    await ask(empty.url, shown, BOB, "a group", "alice-in-chains: a secret")
    await ask(empty.url, shown, BOB, "carol", "kept")
    for _ in range(2):
        await tokens.forget(ALICE, "alice-in-chains")
    for table, left in (("push_token", 1), ("push_job", 1), ("dead_letter", 1), ("push_log", 3)):
        rows = await ask(empty.url, f"SELECT account_id FROM push.{table}")  # noqa: S608 - its own
        assert rows == [(BOB,)] * left, table
    texts = await ask(empty.url, "SELECT title, body FROM push.push_log ORDER BY push_id")
    assert texts == [("", ""), ("", ""), ("carol", "kept")]
    assert await ask(empty.url, "SELECT payload FROM push.dead_letter") == [(b"",)]
