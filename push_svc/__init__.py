"""Push: each device that has a token is told of what it has not acked, once, through its provider.

A push is a row before it is anything else; whoever dies leaves the row to another.
"""
