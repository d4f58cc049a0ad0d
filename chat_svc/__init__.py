"""chat_svc: sessions of devices, the commit of every message, and the conversations themselves.

Arrows inside: api -> node -> store; all may use core, which does no I/O. The other services are
reached by gRPC only.
"""
