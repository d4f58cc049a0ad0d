"""The mesh on one machine with nothing to install: real PostgreSQL, real Valkey, five servers.

Role: what `chatmesh up`, `demo`, `bench` and the tests start. `supervisor.Mesh` is the way in;
`running.find()` finds a mesh that somebody else started.
Rules: servers never import this package. It knows the servers only as modules to run and
environment variables to set. This file imports nothing, so that the guardian starts in no time.
"""
