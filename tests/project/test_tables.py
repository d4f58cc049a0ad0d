"""The pages that name tests name tests that exist, for every promise and every row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
TABLES = {
    "testing.md": [
        *(f"L{number}" for number in range(1, 20)),
        *(f"U{number}" for number in range(1, 8)),
        *(f"O{number}" for number in range(1, 10)),
    ],
    "promises.md": [f"P{number}" for number in range(1, 13)],
}
"""Page → the rows that it must have."""
NAMED = re.compile(r"`(tests/[\w/.]*|test_\w+)`")


def rows(page: str) -> dict[str, str]:
    """First cell → the rest of its row."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    cells = (line.strip("| ").split(" | ", 1) for line in lines if line.startswith("| "))
    return {cell[0].strip(): cell[1] for cell in cells if len(cell) == 2}


def functions() -> set[str]:
    """Names of all tests."""
    return {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("page", TABLES)
def test_every_row_names_tests_that_exist(page: str) -> None:
    found, known = rows(page), functions()
    assert [row for row in TABLES[page] if row not in found] == []
    for row in TABLES[page]:
        named = NAMED.findall(found[row])
        assert named, f"{row} of docs/{page} names no test"
        missing = [
            name for name in named if not ((ROOT / name).exists() if "/" in name else name in known)
        ]
        assert missing == [], f"{row} of docs/{page} names what is not there"
