"""Every reason of the contract has its class, its facts and its advice."""

import pytest

from chatmesh import errors as table
from chatmesh.client import errors
from chatmesh.client._problem import from_problem
from chatmesh.v1.types_pb2 import Problem


@pytest.mark.parametrize("row", table.TABLE, ids=lambda row: str(row.reason))
def test_every_reason_becomes_a_typed_exception(row: table.Refusal) -> None:
    problem = Problem(
        code=row.code.value[0], reason=row.reason, message=row.text, retry_after_ms=1500
    )
    problem.metadata["limit"] = "7"
    error = from_problem(problem)
    assert type(error) is not errors.ChatmeshError
    assert (error.reason, error.code, error.message) == (row.reason, row.code.name, row.text)
    assert error.retry_after_seconds == 1.5
    assert error.facts == {"limit": "7"}
    assert error.advice == row.client
    assert row.reason in str(error)


def test_own_classes_name_only_reasons_of_the_table() -> None:
    assert errors._BY_REASON.keys() <= table.BY_REASON.keys()


def test_a_reason_of_a_newer_server_falls_back_to_its_status() -> None:
    error = from_problem(Problem(code=5, reason="NEWLY_INVENTED"))
    assert type(error) is errors.NotFound
    assert type(from_problem(Problem(code=99))) is errors.ServerFailed


def test_no_advice_is_none_not_zero() -> None:
    assert from_problem(Problem(code=14)).retry_after_seconds is None
