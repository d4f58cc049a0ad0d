"""One table of errors: what the code raises, what the table holds, what the page tells.

The code is read as a syntax tree, so that a reason that no test ever meets is found as well.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from chatmesh import errors
from chatmesh.runtime import faults

ROOT = Path(__file__).parents[2]
PACKAGES = ("chatmesh", "chat_svc", "presence_svc", "push_svc", "sequencer_svc", "sync_svc")
PAGE = ROOT / "protos" / "README.md"
REASON_KEYWORDS = ("reason", "error_reason")
REASON = re.compile(r"[A-Z][A-Z0-9_]{2,}")


def sources() -> list[Path]:
    """Our own Python, generated stubs left out."""
    return [
        path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if "_pb2" not in path.name
    ]


def uses(path: Path) -> Iterator[tuple[int, str]]:
    """(line, reason) of each reason that a file gives: by table, by constant or by its name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "errors" and REASON.fullmatch(node.attr):
                yield node.lineno, node.attr
            elif node.value.id == "faults" and REASON.fullmatch(node.attr):
                value = getattr(faults, node.attr, node.attr)
                if isinstance(value, str) and REASON.fullmatch(value):
                    yield node.lineno, value
        if isinstance(node, ast.Call):
            yield from _literal_reasons(node)


def _literal_reasons(call: ast.Call) -> Iterator[tuple[int, str]]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = [word.value for word in call.keywords if word.arg in REASON_KEYWORDS]
    if name == "Fault" and len(call.args) > 1:
        given.append(call.args[1])
    for value in given:
        text = value.value if isinstance(value, ast.Constant) else None
        if isinstance(text, str) and REASON.fullmatch(text):
            yield call.lineno, text


NOT_REASONS = {"TABLE", "BY_REASON", "DOMAIN", "DETAILS_TRAILER"}


def test_every_reason_in_the_code_is_in_the_table() -> None:
    unknown = [
        f"{path.relative_to(ROOT)}:{line} {reason}"
        for path in sources()
        for line, reason in uses(path)
        if reason not in errors.BY_REASON and reason not in NOT_REASONS
    ]
    assert unknown == []


def test_the_search_finds_reasons_at_all() -> None:
    """A search that finds nothing would pass for ever."""
    found = {reason for path in sources() for _, reason in uses(path)}
    assert {"TOKEN_MISSING", "CALLER_NOT_ALLOWED", "UNDECODABLE"} <= found


def test_reasons_of_the_runtime_are_rows_with_the_same_name() -> None:
    given = {
        value
        for name, value in vars(faults).items()
        if isinstance(value, str) and name == value and REASON.fullmatch(value)
    }
    assert "INTERNAL" in given
    assert given - errors.BY_REASON.keys() == set()


@pytest.mark.parametrize("row", errors.TABLE, ids=lambda row: row.reason)
def test_every_row_is_whole_and_on_the_page(row: errors.Refusal) -> None:
    assert REASON.fullmatch(row.reason)
    assert row.code is not grpc.StatusCode.OK
    assert row.code is not grpc.StatusCode.UNKNOWN
    assert row.text
    assert row.client
    fault = row(limit=1)
    assert (fault.code, fault.reason, fault.metadata) == (row.code, row.reason, {"limit": "1"})
    line = f"| {row.code.name} | `{row.reason}` | {row.text} | {row.client} |"
    assert line in PAGE.read_text(encoding="utf-8").splitlines()


def test_reasons_are_unique_and_named_as_their_constant() -> None:
    assert len(errors.BY_REASON) == len(errors.TABLE)
    for row in errors.TABLE:
        assert getattr(errors, row.reason) is row
