"""However a mesh ends, nothing of it stays: no process, no socket, no shared memory."""

import signal
from pathlib import Path

import psutil
import psycopg
import pytest

from chatmesh.embedded.errors import FolderInUse
from chatmesh.embedded.layout import DataFolder
from chatmesh.embedded.supervisor import Mesh, MeshOptions
from tests.embedded.holding import Held, held_mesh, wait_gone


def assert_nothing_left(held: Held, processes: list[psutil.Process]) -> None:
    assert wait_gone(processes) == []
    for folder in held.said["folders"]:
        assert not Path(folder).exists()
    for file in held.said["shared_memory"]:
        assert not Path(file).exists()
    segments = Path("/proc/sysvipc/shm")
    if segments.exists():
        creators = {line.split()[4] for line in segments.read_text().splitlines()[1:]}
        assert creators.isdisjoint(map(str, held.pids))


def test_a_clean_stop(tmp_path: Path) -> None:
    with held_mesh(tmp_path / "data") as held:
        processes = held.processes()
        held.process.terminate()
        assert held.process.wait(60) == 0
        assert_nothing_left(held, processes)
    folder = DataFolder(tmp_path / "data")
    assert not folder.mesh_file.exists()
    assert not folder.is_locked()
    assert "database system is shut down" in folder.log_tail("postgres")


def test_kill_9_of_the_supervisor(tmp_path: Path) -> None:
    with held_mesh(tmp_path / "data") as held:
        processes = held.processes()
        assert len(processes) > 5
        held.process.kill()
        held.process.wait()
        assert_nothing_left(held, processes)
    folder = DataFolder(tmp_path / "data")
    assert not folder.mesh_file.exists()
    # not only gone, but ended in their orderly way
    assert "database system is shut down" in folder.log_tail("postgres")


def test_kill_9_of_supervisor_and_guardian_is_cleaned_by_the_next_start(tmp_path: Path) -> None:
    with held_mesh(tmp_path / "data") as held:
        processes = held.processes()
        psutil.Process(held.said["guardian"]).kill()
        held.process.kill()
        held.process.wait()
        # the guardian may have been started anew in the moment between; both ways must end well
        with Mesh(MeshOptions(data=tmp_path / "data", ports="auto", servers=False)):
            assert_nothing_left(held, processes)


def test_a_killed_guardian_is_replaced(tmp_path: Path) -> None:
    with held_mesh(tmp_path / "data") as held:
        holder = psutil.Process(held.process.pid)
        processes = held.processes()
        known = set(held.pids)
        psutil.Process(held.said["guardian"]).kill()
        new: list[psutil.Process] = []
        while not new:  # bounded by pytest's timeout
            new = [child for child in holder.children() if child.pid not in known]
        held.process.kill()
        held.process.wait()
        assert_nothing_left(held, [*processes, *new])


def test_the_next_start_waits_for_the_guardian_and_finds_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with held_mesh(data) as held:
        with psycopg.connect(held.said["owner_url"], autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (x int)")
            connection.execute("INSERT INTO kept VALUES (7)")
        processes = held.processes()
        held.process.kill()
        held.process.wait()
        with Mesh(MeshOptions(data=data, ports="auto", servers=False)) as mesh:
            assert wait_gone(processes) == []
            with psycopg.connect(mesh.running.owner_url()) as connection:
                assert connection.execute("SELECT x FROM kept").fetchall() == [(7,)]


def test_secrets_outlive_a_restart_and_certificates_do_not(tmp_path: Path) -> None:
    options = MeshOptions(data=tmp_path / "data", ports="auto", servers=False)
    contents: list[tuple[str, bytes]] = []
    for _ in range(2):
        with Mesh(options) as mesh:
            ca = (mesh.folder.certificates / "ca.pem").read_bytes()
            contents.append((mesh.running.token("alice")[:20], ca))
            secrets = {p.name: p.read_bytes() for p in mesh.folder.secrets.glob("postgres-chat*")}
    assert contents[0][1] != contents[1][1]
    assert {p.name: p.read_bytes() for p in mesh.folder.secrets.glob("postgres-chat*")} == secrets


def test_a_folder_in_use_is_refused_and_the_mesh_on_it_goes_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with held_mesh(data) as held:
        with pytest.raises(FolderInUse, match=str(held.process.pid)):
            Mesh(MeshOptions(data=data, ports="auto", servers=False)).start()
        with held_mesh(data) as second:
            assert second.said["error"] == "FolderInUse"
            assert second.process.wait(30) == 1
        assert all(process.is_running() for process in held.processes())


def test_two_meshes_beside_each_other(tmp_path: Path) -> None:
    with held_mesh(tmp_path / "a") as first, held_mesh(tmp_path / "b") as second:
        assert set(first.pids).isdisjoint(second.pids)
        assert first.said["owner_url"] != second.said["owner_url"]


def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    broken = MeshOptions(
        data=data, ports="auto", servers=False, postgres_settings={"shared_buffers": "nonsense"}
    )
    mesh = Mesh(broken)
    with pytest.raises(Exception, match="shared_buffers"):
        mesh.start()
    assert not mesh.folder.is_locked()
    mine = [p for p in psutil.process_iter(["cmdline"]) if str(data) in str(p.info["cmdline"])]
    assert mine == []
    with Mesh(MeshOptions(data=data, ports="auto", servers=False)):
        pass


def test_a_stopped_process_is_ended_too(tmp_path: Path) -> None:
    with Mesh(MeshOptions(data=tmp_path / "data", ports="auto", servers=False)) as mesh:
        processes = [psutil.Process(pid) for name in mesh.names() for pid in mesh.pids(name)]
        mesh.kill("valkey", signal.SIGSTOP)
    assert wait_gone(processes) == []
