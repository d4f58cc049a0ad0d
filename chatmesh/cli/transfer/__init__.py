"""The file of `chatmesh export` and `chatmesh import`: JSON lines with all of one tenant.

- `lines`: what a line may be; `events`: what was said, as JSON and as stored bytes
- `checking`: a whole file, line by line, against itself, before anything is written
- `reading`: out of PostgreSQL; `writing`: into it. Both call functions of chat_svc's migrations.

Rules: memory is bounded whatever the size of the tenant: what a file refers to is kept in a
temporary SQLite file. Nothing here is imported before a command needs it.
"""
