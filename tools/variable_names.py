"""Writes chatmesh/variables.py from the settings classes; --check only compares.

The settings are the source: a server can tell a misspelt variable from one of another server's
only when it knows the names of all, and no service imports another.
"""

import importlib
import sys
from pathlib import Path

from chatmesh.runtime.settings import ServerSettings, variable

FILE = Path(__file__).parent.parent / "chatmesh" / "variables.py"
BEGIN, END = "    # settings:begin\n", "    # settings:end\n"
SERVICES = ("chat_svc", "presence_svc", "push_svc", "sequencer_svc", "sync_svc")


def names() -> list[str]:
    """The variable of every field of every server's settings."""
    found: set[str] = set()
    for service in SERVICES:
        for value in vars(importlib.import_module(f"{service}.settings")).values():
            if isinstance(value, type) and issubclass(value, ServerSettings):
                found |= {variable(field) for field in value.model_fields}
    return sorted(found)


def main() -> int:
    """Write or compare; 1 when they differ."""
    content = FILE.read_text(encoding="utf-8")
    head, rest = content.split(BEGIN)
    _, tail = rest.split(END)
    wanted = head + BEGIN + "".join(f'    "{name}",\n' for name in names()) + END + tail
    if "--check" in sys.argv:
        if wanted == content:
            return 0
        sys.stderr.write("chatmesh/variables.py: a setting is missing or gone; run make gen\n")
        return 1
    FILE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
