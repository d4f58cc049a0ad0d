"""sequencer_svc: Snowflake ids by RPC, unique whatever the clocks do (docs/promises.md, P8).

Modules, along the arrows: app → servicer → worker → store; snowflake is pure; watch looks on.
"""
