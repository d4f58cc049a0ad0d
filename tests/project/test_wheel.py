"""The wheel, installed alone in a clean environment: what an editable install hides shows here."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PACKAGES = ("chatmesh", "presence_svc", "sequencer_svc", "chat_svc", "sync_svc", "push_svc")
DATA_SUFFIXES = (".sql", ".lua", ".proto", ".md", ".typed", ".pyi")


def run(*command: str | Path, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command away from the checkout, without the environment's own Python settings."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CHATMESH"))}
    return subprocess.run(
        [str(part) for part in command],
        cwd="/",
        env={**environment, **changes},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a venv with the wheel, its own dependencies and no extra."""
    venv = tmp_path_factory.mktemp("clean") / "venv"
    made = run(BIN / "uv", "venv", "--quiet", "--python", sys.executable, venv)
    assert made.returncode == 0, made.stderr
    install = ("pip", "install", "--quiet", "--python", venv / "bin/python")
    pins = ("--constraints", ROOT / "requirements.lock", wheel)
    done = run(BIN / "uv", *install, "--offline", *pins)  # what setup fetched is at hand
    if done.returncode != 0:
        done = run(BIN / "uv", *install, *pins)
    if done.returncode != 0 and "CI" not in os.environ:
        pytest.skip(f"no registry to install from: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr
    return venv / "bin"


def test_it_holds_every_tracked_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES, "protos"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    if not tracked:
        pytest.skip("not a git checkout")
    wanted = {name if not name.startswith("protos/") else f"chatmesh/{name}" for name in tracked}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name for name in wanted if (ROOT / name.removeprefix("chatmesh/")).exists()} - held == (
        set()
    )
    assert held - wanted == set()
    assert any(name.endswith(".sql") for name in held)


def test_the_command_runs_without_any_extra(clean: Path) -> None:
    done = run(clean / "chatmesh", "--help")
    assert done.returncode == 0, done.stderr
    assert "up" in done.stdout
    version = run(clean / "chatmesh", "--version")
    assert version.stdout.startswith("chatmesh ")


def test_what_an_extra_gives_is_told_when_it_is_missing(clean: Path, tmp_path: Path) -> None:
    done = run(clean / "chatmesh", "up", "--data", tmp_path / "data")
    assert done.returncode == 1
    assert "pip install 'chatmesh[embedded]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("service", PACKAGES[1:])
def test_a_server_tells_what_it_needs(clean: Path, service: str) -> None:
    done = run(clean / "python", "-m", service)
    assert done.returncode == 2, done.stderr
    assert "CHATMESH_MESH_LISTEN" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_writes_the_public_protos_out(clean: Path, tmp_path: Path) -> None:
    done = run(clean / "chatmesh", "protos", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    written = {p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.proto")}
    source = ROOT / "protos"
    assert written == {p.relative_to(source) for p in (source / "chatmesh/v1").glob("*.proto")}


def test_typed_for_its_users(clean: Path) -> None:
    done = run(
        clean / "python",
        "-c",
        "from importlib.resources import files; assert (files('chatmesh') / 'py.typed').is_file()",
    )
    assert done.returncode == 0, done.stderr
