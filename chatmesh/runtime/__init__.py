"""What any gRPC service of the mesh stands on: engine, settings, servers, peers, stores, traces.

Rules: knows no word of chat and imports nothing of chatmesh outside this package. This file
imports nothing at all, so that `chatmesh.runtime.engine` can run before grpc is imported.
"""
