"""The load process of `bench ids`: one stream to one sequencer, as a chat node has it.

`python -m chatmesh.cli.bench.ids_load` reads one JSON line from stdin:

    {"target": …, "ca": …, "cert": …, "key": …, "batch": …, "in_flight": …, "seconds": …, "file": …}

and writes one: {"ids": …, "requests": …, "seconds": …, "unordered": …}, or {"failed": …}. The
ranges it was given go to `file` as pairs of unsigned 64-bit numbers (first, count), for a look over
all processes.
"""

from __future__ import annotations

import array
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from chatmesh.mesh.v1 import sequencer_pb2, sequencer_pb2_grpc
from chatmesh.runtime import engine


async def take(
    order: dict[str, Any], credentials: grpc.ChannelCredentials, ranges: array.array[int]
) -> dict[str, Any]:
    """Keep so many requests in flight for so long. Raises grpc.aio.AioRpcError."""
    requests = ids = unordered = last = 0
    async with grpc.aio.secure_channel(order["target"], credentials) as channel:
        stub: sequencer_pb2_grpc.SequencerServiceAsyncStub = (
            sequencer_pb2_grpc.SequencerServiceStub(channel)
        )
        call = stub.NextIdsStream()
        request = sequencer_pb2.NextIdsRequest(count=order["batch"])
        for _ in range(order["in_flight"]):
            await call.write(request)
        began = time.monotonic()
        until = began + order["seconds"]
        waiting = order["in_flight"]
        while waiting:
            answer = await call.read()
            if not isinstance(answer, sequencer_pb2.NextIdsResponse) or answer.error_code:
                raise RuntimeError(f"the sequencer ended the stream: {await call.details()}")
            waiting -= 1
            if time.monotonic() < until:
                await call.write(request)
                waiting += 1
            requests += 1
            for given in answer.ranges:
                unordered += given.first <= last
                last = given.first + given.count - 1
                ids += given.count
                ranges.append(given.first)
                ranges.append(given.count)
        seconds = time.monotonic() - began
        await call.done_writing()
    return {"ids": ids, "requests": requests, "seconds": seconds, "unordered": unordered}


def main() -> None:
    """Do what stdin orders."""
    order = json.loads(sys.stdin.readline())
    ranges = array.array("Q")
    result: dict[str, Any]
    try:
        credentials = grpc.ssl_channel_credentials(
            *(Path(order[name]).read_bytes() for name in ("ca", "key", "cert"))
        )
        result = asyncio.run(take(order, credentials, ranges))
        Path(order["file"]).write_bytes(ranges.tobytes())
    except (grpc.aio.AioRpcError, RuntimeError, OSError) as error:
        result = {"failed": str(error).splitlines()[0]}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    engine.prepare()
    main()
