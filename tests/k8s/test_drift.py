"""Manifests say what the code reads: settings, ports, probes, times of leaving.

Each server's whole environment, as its pod would have it, goes through its own settings class.
"""

import importlib
from pathlib import Path

import pytest

from chatmesh.runtime.lifecycle import HARD_STOP_MARGIN_SECONDS
from chatmesh.runtime.probes import LIVENESS, READINESS, STARTUP
from chatmesh.runtime.settings import ServerSettings, SettingsError, load, variable
from tests.k8s.rendering import (
    DEPLOYED,
    NAME,
    POST,
    SERVERS,
    Pod,
    config_map,
    literals,
    of_kind,
    pods,
    port_of,
    secrets_of,
    servers,
)

EACH = [(overlay, server) for overlay in DEPLOYED for server in SERVERS]
SECRET_SAMPLES = {
    "CHATMESH_POSTGRES_URL": "postgresql://somebody:secret@db.example.com/chatmesh?sslmode=require",
    "CHATMESH_REDIS_URL": "rediss://:secret@redis.example.com:6379/0",
    "CHATMESH_HINT_KEY": "0123456789abcdef0123456789abcdef",
    "CHATMESH_DEV_SECRET": "0123456789abcdef0123456789abcdef",
}
FIELD_SAMPLES = {"status.podIP": "10.1.2.3", "metadata.name": "chat-5d9c7-abcde"}


def settings_class(server: str) -> type[ServerSettings]:
    module = importlib.import_module(f"{server}_svc.settings")
    (found,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, ServerSettings)
        and value.__module__ == module.__name__
    ]
    return found


def environment(pod: Pod, folder: Path) -> dict[str, str]:
    """What the pod's process would see; files of volumes are made in `folder`."""
    values = literals(pod)
    values |= {name: SECRET_SAMPLES[name] for name in secrets_of(pod)}
    for each in pod.container["env"]:
        path = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        if path:
            values[each["name"]] = FIELD_SAMPLES[path]
    for name, text in list(values.items()):
        for other, inserted in list(values.items()):
            values[name] = values[name].replace(f"$({other})", inserted)
        if text.startswith("/"):
            mounts = [mount["mountPath"] for mount in pod.container["volumeMounts"]]
            assert any(text.startswith(f"{mount}/") for mount in mounts), f"{text} is nowhere"
            file = folder / text.strip("/").replace("/", "-")
            file.write_text("PEM")
            values[name] = str(file)
    return values


@pytest.mark.parametrize(("overlay", "server"), EACH)
def test_a_servers_environment_is_what_its_settings_take(
    overlay: str, server: str, tmp_path: Path
) -> None:
    pod, cls = servers(overlay)[server], settings_class(server)
    values = environment(pod, tmp_path)
    try:
        load(cls, values)
    except SettingsError as error:
        pytest.fail(str(error))
    own = {name for name in (*literals(pod), *secrets_of(pod)) if name.startswith("CHATMESH_")}
    read = {variable(field) for field in cls.model_fields}
    assert own - set(config_map(overlay)) <= read, "a variable that this server does not read"


@pytest.mark.parametrize("overlay", DEPLOYED)
def test_shared_variables_are_read_by_somebody(overlay: str) -> None:
    read = {variable(field) for server in SERVERS for field in settings_class(server).model_fields}
    assert {name for name in config_map(overlay) if name.startswith("CHATMESH_")} <= read


@pytest.mark.parametrize(("overlay", "server"), EACH)
def test_listeners_ports_and_services_are_the_same(overlay: str, server: str) -> None:
    pod = servers(overlay)[server]
    assert pod.container["args"] == ["python", "-m", f"{server}_svc"]
    listens = {
        name.removeprefix("CHATMESH_").removesuffix("_LISTEN").lower(): port_of(value)
        for name, value in literals(pod).items()
        if name.endswith("_LISTEN")
    }
    ports = {port["name"]: port["containerPort"] for port in pod.container["ports"]}
    assert ports == {("probes" if n == "probe" else n): p for n, p in listens.items()}
    headless = of_kind(overlay, "Service")[server]["spec"]
    assert headless["clusterIP"] == "None", "gRPC clients need every pod's address"
    assert headless["selector"] == {NAME: server}
    served = {port["name"]: port for port in headless["ports"]}
    assert served["mesh"]["port"] == ports["mesh"]
    assert all(port["targetPort"] in ports for port in headless["ports"])
    target = config_map(overlay)[f"CHATMESH_{server.upper()}_TARGET"]
    assert target == f"dns:///{server}:{ports['mesh']}", "the target's name is the Service's"


@pytest.mark.parametrize("overlay", DEPLOYED)
def test_a_chat_node_names_its_own_mesh_port(overlay: str) -> None:
    values = literals(servers(overlay)["chat"])
    assert values["CHATMESH_NODE_TARGET"] == f"$(POD_IP):{port_of(values['CHATMESH_MESH_LISTEN'])}"
    public = of_kind(overlay, "Service")["chat-public"]["spec"]
    assert [port["targetPort"] for port in public["ports"]] == ["public"]


@pytest.mark.parametrize(("overlay", "server"), EACH)
def test_probes_ask_the_probes_port_three_questions(overlay: str, server: str) -> None:
    container = servers(overlay)[server].container
    port = port_of(literals(servers(overlay)[server])["CHATMESH_PROBE_LISTEN"])
    asked = {
        kind: container[kind]["grpc"]
        for kind in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert asked == {
        "startupProbe": {"port": port, "service": STARTUP},
        "livenessProbe": {"port": port, "service": LIVENESS},
        "readinessProbe": {"port": port, "service": READINESS},
    }


@pytest.mark.parametrize(("overlay", "server"), EACH)
def test_a_pod_has_time_to_leave(overlay: str, server: str) -> None:
    pod = servers(overlay)[server]
    before = pod.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = float(literals(pod)["CHATMESH_SHUTDOWN_GRACE_SECONDS"])
    needed = before + grace + HARD_STOP_MARGIN_SECONDS
    assert pod.spec["terminationGracePeriodSeconds"] >= needed


@pytest.mark.parametrize("overlay", DEPLOYED)
def test_migrations_run_as_the_owner_and_before_new_servers_serve(overlay: str) -> None:
    (job,) = [pod for pod in pods(overlay) if pod.kind == "Job"]
    assert job.container["args"] == ["chatmesh", "migrate", "--stage", "pre"]
    assert secrets_of(job) == {"CHATMESH_POSTGRES_URL": ("chatmesh-stores", "postgres-url-owner")}


def test_the_second_stage_is_the_same_job_otherwise() -> None:
    (pre,) = [pod for pod in pods("base") if pod.kind == "Job"]
    (post,) = pods(POST)
    assert post.name == "migrate-post"
    assert post.container["args"] == [*pre.container["args"][:-1], "post"]
    same = {"args": [], "image": ""}
    assert {**post.container, **same} == {**pre.container, **same}
    assert post.labels == pre.labels, "the network policies let it reach PostgreSQL"
