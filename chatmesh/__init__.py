"""chatmesh: a chat back end as a mesh of five gRPC servers, and the client for it."""

__version__ = "0.1.0"
