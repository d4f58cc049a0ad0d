"""Presence in Redis: the data dictionary is KEYS.md, what changes data is Lua in lua/."""
