"""Writes docs/settings.md and docs/limits.md from the code; --check only compares.

The settings classes and the table of limits are the source: the pages cannot differ from what the
servers read. Text before the mark in each page is written by hand and stays.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from chatmesh import limits
from chatmesh.cli.config import SERVICES, settings_class
from chatmesh.runtime.settings import ServerSettings, Settings, variable
from chatmesh.runtime.settings_public import IssuerSettings, PublicServerSettings
from chatmesh.runtime.settings_told import default_of, kind_of, plain_of

DOCS = Path(__file__).parent.parent / "docs"
MARK = "<!-- generated: make gen -->\n"
LIMIT_PREFIX = "limit_"


def settings_page() -> str:
    """One table for what all servers share, one per server for its own."""
    parts = ["## Every server\n", _table(ServerSettings, set())]
    shared = set(ServerSettings.model_fields)
    for module in SERVICES:
        cls = settings_class(module)
        parts.append(f"## {module}\n")
        if issubclass(cls, PublicServerSettings):
            parts.append(
                "Beside these: each limit of [limits.md](limits.md) as `CHATMESH_LIMIT_<NAME>`.\n"
            )
        hidden = {name for name in cls.model_fields if name.startswith(LIMIT_PREFIX)}
        # a server may demand, or say more of, what another may leave out
        same = {
            name
            for name in shared
            if cls.model_fields[name].description == ServerSettings.model_fields[name].description
            and cls.model_fields[name].is_required()
            == ServerSettings.model_fields[name].is_required()
        }
        parts.append(_table(cls, same | hidden))
    parts += ["## One element of CHATMESH_ISSUERS\n", _fields_table(IssuerSettings)]
    return "\n".join(parts)


def _table(cls: type[Settings], without: set[str]) -> str:
    lines = ["| variable | value | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in cls.model_fields.items():
        if name not in without:
            default = "**required**" if field.is_required() else _default(default_of(cls, name))
            row = (f"`{variable(name)}`", kind_of(field.annotation), default, field.description)
            lines.append(_row(*row))
    return "\n".join(lines) + "\n"


def _fields_table(cls: type[IssuerSettings]) -> str:
    lines = ["| field | value | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in cls.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "**required**" if field.is_required() else _default(default)
        lines.append(_row(f"`{name}`", kind_of(field.annotation), shown, field.description))
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    if value is None or value == "":
        return "none"
    plain = plain_of(value) if not isinstance(value, SecretStr) else "(hidden)"
    return f"`{plain if isinstance(plain, str) else json.dumps(plain)}`"


def limits_page() -> str:
    """What a deployment may set, then what none sets."""
    lines = [
        "## Set by a deployment\n",
        "| limit | default | unit | may be | why |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in limits.ALL:
        span = f"{one.low:,} to {one.high:,}"
        lines.append(_row(f"`{one.name}`", f"{one.default:,}", one.unit, span, one.reason))
    lines += ["\n## Set by no deployment\n", "| limit | what it counts |", "| --- | --- |"]
    lines += [_row(f"`{name}`", text) for name, text in sorted(limits.FIXED.items())]
    return "\n".join(lines) + "\n"


def _row(*cells: str | None) -> str:
    texts = (" ".join((cell or "").split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(texts)} |"


def main() -> int:
    """Write or compare; 1 when a page differs."""
    old = []
    for name, text in (("settings.md", settings_page()), ("limits.md", limits_page())):
        page = DOCS / name
        content = page.read_text(encoding="utf-8")
        wanted = content.partition(MARK)[0] + MARK + "\n" + text
        if "--check" not in sys.argv:
            page.write_text(wanted, encoding="utf-8")
        elif wanted != content:
            old.append(f"docs/{name}")
    if old:
        sys.stderr.write(f"{', '.join(old)}: old; run make gen\n")
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
