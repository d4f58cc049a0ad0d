"""The committed stubs serve synchronous callers too: other teams' services need not use asyncio.

grpcio-testing stands in for the wire (it has no asyncio side), so the calls are looked at as the
stubs make them: paths and messages.
"""

from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc_testing

from chatmesh.mesh.v1 import sequencer_pb2, sequencer_pb2_grpc

SERVICE = sequencer_pb2.DESCRIPTOR.services_by_name["SequencerService"]
NEXT_IDS = SERVICE.methods_by_name["NextIds"]


def test_ids_for_a_synchronous_caller() -> None:
    channel = grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())
    stub = sequencer_pb2_grpc.SequencerServiceStub(channel)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stub.NextIds, sequencer_pb2.NextIdsRequest(count=3))
        _, request, call = channel.take_unary_unary(NEXT_IDS)
        assert request.count == 3
        ids = sequencer_pb2.IdRange(first=7, count=3)
        call.terminate(sequencer_pb2.NextIdsResponse(ranges=[ids]), (), grpc.StatusCode.OK, "given")
        assert list(asked.result(timeout=30).ranges) == [ids]
