"""Who is online, where: leases of chat nodes, routes of sessions, states of users, watches.

All state lies in Redis and may be lost whole at any time; the chat nodes hold the truth (their
sessions) and give it again. Any number of replicas, none of which owns a user.
"""
