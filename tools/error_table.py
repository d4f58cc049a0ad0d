"""Writes the error table of protos/README.md from chatmesh.errors; --check only compares.

The table in the code is the source: what clients meet cannot differ from the page.
"""

import sys
from pathlib import Path

from chatmesh import errors

PAGE = Path(__file__).parent.parent / "protos" / "README.md"
BEGIN, END = "<!-- errors:begin -->\n", "<!-- errors:end -->"


def table() -> str:
    """The Markdown table, in the order of the code."""
    lines = ["| status | reason | meaning | what the client does |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {row.code.name} | `{row.reason}` | {row.text} | {row.client} |" for row in errors.TABLE
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or compare; 1 when they differ."""
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    wanted = head + BEGIN + table() + END + tail
    if "--check" in sys.argv:
        if wanted == page:
            return 0
        sys.stderr.write("protos/README.md: the error table is old; run make gen\n")
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
