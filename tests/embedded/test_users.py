"""The same mesh as root, as an ordinary user, and as root where user namespaces are refused."""

import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from chatmesh.embedded import privilege
from chatmesh.embedded.binaries import postgres_programs
from chatmesh.embedded.children import Guard
from chatmesh.embedded.errors import FolderUnusable, NoPrivilege
from chatmesh.embedded.layout import DataFolder
from chatmesh.embedded.parts import Keeper, Part
from chatmesh.embedded.postgres import EmbeddedPostgres
from chatmesh.embedded.processes import ProcessTable
from tests.embedded.holding import ROOT, held_mesh, open_folder, wait_gone

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def python_of_nobody(folder: Path) -> tuple[str, dict[str, str]] | None:
    """An interpreter that an ordinary user can run with this environment's packages, if any."""
    # redis needs this package before Python 3.11.3, and only there the lock installs it
    (folder / "async_timeout.py").write_text("from asyncio import timeout as timeout\n")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *packages, str(folder)]),
        "HOME": "/nonexistent",
    }
    version = f"python3.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            done = subprocess.run(
                [python, "-c", "import chatmesh.embedded.supervisor"],
                env={**os.environ, **environment},
                cwd=ROOT,
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python, environment
    return None


@as_root
def test_as_an_ordinary_user() -> None:
    with open_folder() as folder:
        found = python_of_nobody(folder)
        if found is None:
            pytest.skip("no Python that an ordinary user can run with these packages")
        python, environment = found
        os.chown(folder, NOBODY, NOBODY)
        data = folder / "data"
        with held_mesh(data, python=python, environment=environment, user=NOBODY) as held:
            assert "error" not in held.said
            processes = held.processes()
            assert {process.uids().real for process in processes} == {NOBODY}
            held.process.kill()
            held.process.wait()
            assert wait_gone(processes) == []


@as_root
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    with pytest.raises(FolderUnusable, match=f"belongs to user {NOBODY}"):
        DataFolder(data).make()


def test_a_folder_of_other_things_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "letter").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(FolderUnusable, match="holds other things"):
        DataFolder(tmp_path).make()
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert [one.name for one in tmp_path.iterdir()] == ["letter"]


@as_root
def test_root_without_namespaces_runs_postgres_as_an_existing_user() -> None:
    with open_folder() as parent:
        folder = DataFolder(parent / "data")
        folder.make()
        programs = postgres_programs()
        try:
            account = privilege.choose(programs.program("postgres"), folder.postgres, ("user",))
        except NoPrivilege as error:
            pytest.skip(str(error))
        sockets = parent / "sockets"
        sockets.mkdir(mode=0o700)
        table = ProcessTable(folder.processes_file)
        guard = Guard(folder, folder.lock())
        keeper = Keeper(folder, table, guard, lambda _: None, lambda: None)
        postgres = EmbeddedPostgres(folder, sockets, programs=programs, privilege=account)
        try:
            postgres.prepare()
            part = Part(
                name="postgres",
                command=postgres.command,
                is_ready=postgres.is_ready,
                stage=0,
                stop_signal=2,
                grace_seconds=30,
            )
            keeper.start(part)
            keeper.wait_ready(["postgres"], 30)
            postgres.provision()
            with psycopg.connect(postgres.owner_url()) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            assert account.account is not None
            assert folder.postgres.stat().st_uid == account.account[0]
            # passed through, not read; what is secret stays root's alone
            assert stat.S_IMODE(folder.path.stat().st_mode) == 0o711
            assert stat.S_IMODE(folder.secrets.stat().st_mode) == 0o700
        finally:
            keeper.stop()
            guard.dismiss()
            folder.unlock()


@as_root
def test_root_is_told_what_to_do_when_nothing_works(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(NoPrivilege, match=r"cannot reach .*: run chatmesh as an ordinary user"):
        privilege.choose(postgres_programs().program("postgres"), private / "data", ("user",))


def test_namespace_keeps_files_with_root_and_opens_no_folder(tmp_path: Path) -> None:
    chosen = privilege.choose(postgres_programs().program("postgres"), tmp_path / "data")
    assert chosen.account is None
    assert chosen.way == ("plain" if os.geteuid() else "namespace")


@as_root
def test_no_user_is_made() -> None:
    assert not any(entry.pw_name.startswith("embedded") for entry in pwd.getpwall())
