"""Push in PostgreSQL, schema `push`: tokens, jobs, what was sent, dead letters."""
