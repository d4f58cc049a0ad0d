"""Errors that end a start or close a store, told to the operator without a traceback."""

from __future__ import annotations


class StartupError(Exception):
    """The process cannot start; the text says why and what to do."""


class AddressTaken(StartupError):
    """Another process listens on the address already."""

    def __init__(self, address: str, why: str = "it is in use by another process") -> None:
        self.address = address
        super().__init__(
            f"cannot listen on {address}: {why}. Stop the other process or choose another address"
        )


class StoreRefused(Exception):
    """A store works but its settings would break a promise; the text says which and what to do."""
