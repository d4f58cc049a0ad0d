"""First message from Python, with the SDK.

    export TOKEN=$(chatmesh token alice)
    python first_message.py 127.0.0.1:7030 bob "hello from Python"

Opens a session, sends one message, prints where it went, and leaves.
"""

import asyncio
import os
import sys

from chatmesh.client import ChatmeshError, Client


async def main(target: str, to_user: str, text: str) -> None:
    """Send one message and print its positions."""
    async with Client(target, token=os.environ["TOKEN"], device_id="python-example") as client:
        sent = await client.send(to_user=to_user, text=text)
        print(  # noqa: T201 - its answer
            f"message {sent.message_id} is number {sent.conversation_seq} of the conversation"
        )


if __name__ == "__main__":
    if len(sys.argv) != 4 or "TOKEN" not in os.environ:
        sys.exit("usage: TOKEN=<jwt> python first_message.py HOST:PORT USER TEXT")
    try:
        asyncio.run(main(*sys.argv[1:]))
    except ChatmeshError as error:  # its text says what to do
        sys.exit(str(error))
