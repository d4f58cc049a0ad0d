"""PostgreSQL of chat_svc: one module per group of tables, all in the schema `chat`.

Rules. Every read names whose eyes it is for: an account or a tenant is a mandatory argument.
Lock order, everywhere: conversation < member < timeline_head < idempotency_key < device < outbox,
each class in one sorted statement. Whoever locks conversations or heads does so in one call in
autocommit, never over round trips: a paused process must not hold a lock that others wait for.

Must not know: gRPC calls, sessions, sockets.
"""
