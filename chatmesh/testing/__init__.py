"""What tests of a chat mesh need: a proxy that breaks links, recorded histories and their checker,
a clock moved by hand, a small model, a running mesh as a pytest fixture.

Usable by applications, too: `from chatmesh.testing import TcpProxy, Recorder, check`.
Failpoints are part of the servers: `CHATMESH_FAILPOINTS`, see chatmesh.runtime.failpoints.
"""

from chatmesh.testing.checker import Invariant, Report, Violation, check
from chatmesh.testing.clock import VirtualClock
from chatmesh.testing.history import Recorder, read_history
from chatmesh.testing.model import Model
from chatmesh.testing.tcp_proxy import TcpProxy

__all__ = [
    "Invariant",
    "Model",
    "Recorder",
    "Report",
    "TcpProxy",
    "Violation",
    "VirtualClock",
    "check",
    "read_history",
]
