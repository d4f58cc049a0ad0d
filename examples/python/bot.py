"""A bot by unary calls alone: answers everybody who writes to it, each message once.

    export TOKEN=$(chatmesh token echo-bot)
    python bot.py 127.0.0.1:7030

What it has read, it has answered: the read mark is its only state, and answers go out under keys
made from the message, so that a bot that died before marking repeats nothing.
"""

import asyncio
import hashlib
import os
import sys

from chatmesh.client import Event, Message, Text, UnaryClient


def key_for(event: Event) -> bytes:
    """The answer's idempotency key: a UUIDv7 of the message's time and id."""
    digest = hashlib.blake2s(event.message_id.to_bytes(8, "big"), digest_size=10).digest()
    key = bytearray(event.created_at_ms.to_bytes(6, "big") + digest)
    key[6], key[8] = 0x70 | key[6] & 0x0F, 0x80 | key[8] & 0x3F
    return bytes(key)


async def answer_all(bot: UnaryClient) -> None:
    """One round over what is unread."""
    for talk in (await bot.conversations()).conversations:
        if talk.state.unread:
            new = talk.last_message_no - talk.state.read_message_no
            page = await bot.history(talk.conversation_id, limit=min(new, 200))
            for event in page.messages:
                if event.sender != talk.peer or event.message_no <= talk.state.read_message_no:
                    continue
                reply = Text(f"you said: {event.text}")
                await bot.send(
                    Message(reply, conversation_id=talk.conversation_id, key=key_for(event))
                )
            await bot.update_conversation_state(
                talk.conversation_id, read_message_no=page.messages[-1].message_no
            )


async def main(target: str) -> None:
    """Look for new messages twice a second."""
    async with UnaryClient(target, token=os.environ["TOKEN"]) as bot:
        while True:
            await answer_all(bot)
            await asyncio.sleep(0.5)


if __name__ == "__main__":
    if len(sys.argv) != 2 or "TOKEN" not in os.environ:
        sys.exit("usage: TOKEN=<jwt> python bot.py HOST:PORT")
    asyncio.run(main(sys.argv[1]))
