"""Every statement over what users said, have or decided names whose rows it reads: in SQL functions
by a parameter, in the statements that answer callers by a predicate. What need not is listed, each
with its reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import chat_svc.store

STORE = Path(chat_svc.store.__file__).parent
OWNED = ("event", "timeline", "member_interval", "device", "contact", "block", "hidden")
ANSWERING = (
    "accounts", "commit", "conversations", "devices", "governed", "history", "relations",
    "timeline",
)  # fmt: skip
"""Modules whose statements are run for a caller. The others do the node's own work: leases, outbox,
receipts of sessions, sweeps."""
READS = re.compile(rf"\b(?:FROM|JOIN|UPDATE)\s+chat\.({'|'.join(OWNED)})\b", re.IGNORECASE)
STATEMENT = re.compile(r"\s*(?:SELECT|WITH|UPDATE|DELETE|INSERT)\b", re.IGNORECASE)
PARAMETER = re.compile(r"p_(?:account|tenant|sender|owner|actor|one|low)\w*\s+(?:\w+)")
PREDICATE = re.compile(
    r"\b(?:account|owner|tenant|sender|external_id)\s*=\s*(?:ANY\s*\(\s*)?%"
    r"|%\(?(?:account|owner|tenant|me|actor|user)\w*\)?s",
    re.IGNORECASE,
)

FUNCTIONS = {
    "chat.apply_targets_1": "called by the commit alone, after it checked sender and target",
    "chat.seq_of_message_no": "gives a number for a number; its callers checked the member",
    "chat.expire_1": "a sweep over all accounts",
}
"""SQL functions without such a parameter → why."""


def functions() -> dict[str, tuple[str, str]]:
    """Name → (parameters, body), as the last migration left them."""
    found = {}
    for path in sorted((STORE / "migrations").rglob("*.sql")):
        text = re.sub(r"--[^\n]*", "", path.read_text())
        for part in re.split(r"CREATE (?:OR REPLACE )?FUNCTION ", text)[1:]:
            name, _, rest = part.partition("(")
            parameters, _, body = rest.partition("RETURNS")
            found[name.strip()] = parameters, body
    return found


def statements() -> dict[str, str]:
    """module.NAME → SQL."""
    found = {}
    for path in sorted(STORE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AnnAssign | ast.Assign):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                texts = [
                    one.value
                    for one in ast.walk(node.value or ast.Constant(0))
                    if isinstance(one, ast.Constant) and isinstance(one.value, str)
                ]
                if isinstance(target, ast.Name):
                    found[f"{path.stem}.{target.id}"] = " ".join(texts)
    return found


def test_every_function_says_whose_rows_it_reads() -> None:
    nameless = {
        name
        for name, (parameters, body) in functions().items()
        if READS.search(body) and not PARAMETER.search(parameters)
    }
    assert nameless <= FUNCTIONS.keys(), "give it its owner, or say here why it needs none"


def test_every_statement_for_a_caller_says_whose_rows_it_reads() -> None:
    of_callers = {
        name: text
        for name, text in statements().items()
        if name.partition(".")[0] in ANSWERING
        and READS.search(text)
        and STATEMENT.match(text)  # a part of one is judged with its whole
    }
    assert len(of_callers) >= 10, "the statements were found"
    assert [name for name, text in of_callers.items() if not PREDICATE.search(text)] == []


@pytest.mark.parametrize("predicate", ["m.account = %s AND", "b.owner = %(owner)s", "a = ANY (%s)"])
def test_what_a_predicate_is(predicate: str) -> None:
    assert bool(PREDICATE.search(predicate)) == (predicate != "a = ANY (%s)")
