"""PostgreSQL of sequencer_svc: the schema `sequencer`, its statements and migrations."""
