"""The locks hold what pyproject.toml asks for, no place to fetch it from, and nothing known bad."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-run.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(lock: str) -> dict[str, Version]:
    """Name → version; the highest where platforms differ."""
    found: dict[str, Version] = {}
    for name, number in re.findall(
        r"^([a-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", text(lock), re.MULTILINE
    ):
        found[name] = max(Version(number), found.get(name, Version("0")))
    return found


def text(lock: str) -> str:
    return (ROOT / lock).read_text()


def asked_for(*extras: str, groups: bool) -> list[Requirement]:
    project = PROJECT["project"]
    texts = list(project["dependencies"])
    for extra in extras:
        texts += project["optional-dependencies"][extra]
    if groups:
        for group in PROJECT["dependency-groups"].values():
            texts += [item for item in group if isinstance(item, str)]
    return [Requirement(each) for each in texts]


def test_the_lock_of_the_node_sample_names_no_place() -> None:
    assert "://" not in text("examples/node/package-lock.json"), "take out resolved and funding"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_place(lock: str) -> None:
    assert "://" not in text(lock)
    assert not re.search(r"^\s*-(?!-hash=)", text(lock), re.MULTILINE)
    assert not re.search(r"(^|\s)/\w+/", text(lock))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash(lock: str) -> None:
    entries = re.split(r"\n(?=[a-z0-9])", text(lock))
    for entry in entries:
        if "==" in entry:
            assert "--hash=sha256:" in entry, entry.splitlines()[0]


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.lock", asked_for(*PROJECT["project"]["optional-dependencies"], groups=True)),
        ("requirements-run.lock", asked_for("push", "fast", groups=False)),
    ],
)
def test_a_lock_is_not_older_than_the_project(lock: str, wanted: list[Requirement]) -> None:
    held = pins(lock)
    stale = [
        str(each)
        for each in wanted
        if not each.specifier.contains(held.get(each.name, Version("0")), prereleases=True)
    ]
    assert stale == [], "run `make lock`"


def test_servers_run_the_versions_that_were_tested() -> None:
    tested = pins("requirements.lock")
    assert {k: v for k, v in pins("requirements-run.lock").items() if tested.get(k) != v} == {}


@pytest.mark.parametrize(
    ("package", "floor", "why"),
    [
        ("grpcio", "1.60", "CVE-2023-44487 rapid reset; CVE-2023-4785"),
        ("protobuf", "6.33.5", "CVE-2026-0994, CVE-2025-4565 unbounded recursion"),
        ("redis", "4.5.5", "CVE-2023-28858, -28859 answers of another caller"),
        ("psycopg-pool", "3.3.3", "a cancelled task kept its connection"),
        ("h2", "4.3", "CVE-2025-57804 request splitting"),
    ],
)
def test_no_version_with_a_known_hole(package: str, floor: str, why: str) -> None:
    assert Version(version(package)) >= Version(floor), why


def test_the_parser_of_protobuf_is_not_the_pure_python_one() -> None:
    from google.protobuf.internal import api_implementation

    assert api_implementation.Type() == "upb"


def test_every_dependency_has_its_reason_beside_it() -> None:
    # after the first array of dependencies, every line that is a requirement stands in one
    lines = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [")[2].splitlines()
    requirement = re.compile(r'[^#]*"[a-z0-9-]+(\[[a-z0-9]+\])?[>=~]=[^"]*"')
    found = [line.strip() for line in lines if requirement.match(line)]
    assert len(found) > 40
    assert [line for line in found if "#" not in line] == []
