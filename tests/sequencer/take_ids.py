"""A process that takes ids from any of several sequencers: `python -m tests.sequencer.take_ids`.

Arguments: targets by commas, ids per request, requests. Writes one line per range to stdout
(`first count`), in the order given; a refusal is asked again of the next target, and counted in
the last line (`refused N`).
"""

from __future__ import annotations

import asyncio
import itertools
import sys

import grpc

from chatmesh.mesh.v1 import sequencer_pb2, sequencer_pb2_grpc
from chatmesh.runtime.callers import CALLER_METADATA

PATIENCE_SECONDS = 120


async def main(targets: list[str], count: int, requests: int) -> None:
    """Take them all, whatever happens to a sequencer."""
    refused = 0
    channels = [grpc.aio.insecure_channel(target) for target in targets]
    stubs = itertools.cycle([sequencer_pb2_grpc.SequencerServiceStub(one) for one in channels])
    stub = next(stubs)
    request = sequencer_pb2.NextIdsRequest(count=count)
    async with asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(requests):
            while True:
                try:
                    answer = await stub.NextIds(
                        request, metadata=((CALLER_METADATA, "chat_svc"),), timeout=5
                    )
                    break
                except grpc.aio.AioRpcError:
                    refused += 1
                    stub = next(stubs)
                    await asyncio.sleep(0.05)
            for ids in answer.ranges:
                print(ids.first, ids.count)
    print("refused", refused)
    for channel in channels:
        await channel.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])))
