"""What can be wrong with an embedded mesh. Every text says what to do about it.

Rules: raised by this package alone, shown as they are by the command line. Imports nothing.
"""


class EmbeddedError(Exception):
    """Base of all: an expected failure with a text for a person."""


class FolderInUse(EmbeddedError):
    """Another mesh runs on this data folder."""


class FolderUnusable(EmbeddedError):
    """The data folder cannot be made, or belongs to somebody else."""


class PortTaken(EmbeddedError):
    """Something listens on a port that the mesh needs."""


class NotInstalled(EmbeddedError):
    """No PostgreSQL or Valkey for this machine, neither from a wheel nor on PATH."""


class NoPrivilege(EmbeddedError):
    """PostgreSQL refuses to run as root, and no way to run it as somebody else works here."""


class StartFailed(EmbeddedError):
    """A part of the mesh did not come up; the text ends with the last lines of its log."""


class NotRunning(EmbeddedError):
    """No mesh runs on this data folder."""


class UnknownPart(EmbeddedError):
    """No process of the mesh has this name."""
