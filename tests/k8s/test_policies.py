"""What a platform's reviewers ask of every object, as rules; exceptions are rows with a last day.

A rule is a function over one pod that gives what is wrong, or nothing.
"""

import datetime
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.k8s.rendering import DEPLOYED, NAME, ROOT, SERVERS, Pod, of_kind, pods, render

Rule = Callable[[Pod], str]
EXCEPTIONS = tomllib.loads((ROOT / "k8s/policy-exceptions.toml").read_text())["exception"]


def runs_unprivileged(pod: Pod) -> str:
    """Pod Security `restricted`, and a read-only root."""
    whole, own = pod.spec["securityContext"], pod.container["securityContext"]
    wanted = {
        "runAsNonRoot": whole.get("runAsNonRoot") is True and whole.get("runAsUser", 0) > 0,
        "seccomp": whole.get("seccompProfile") == {"type": "RuntimeDefault"},
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
        "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
        "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
    }
    return ", ".join(name for name, good in wanted.items() if not good)


def touches_no_host(pod: Pod) -> str:
    """No namespace, path or port of the host."""
    wrong = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(name)]
    wrong += ["hostPath" for volume in pod.spec.get("volumes", []) if "hostPath" in volume]
    wrong += ["hostPort" for port in pod.container.get("ports", []) if "hostPort" in port]
    return ", ".join(wrong)


def mounts_no_token(pod: Pod) -> str:
    """Nobody speaks to the API server; nobody gets variables for all Services."""
    if pod.spec.get("automountServiceAccountToken") is not False:
        return "automountServiceAccountToken"
    return "" if pod.spec.get("enableServiceLinks") is False else "enableServiceLinks"


def has_an_account_of_its_own(pod: Pod) -> str:
    """Rights given to one service by mistake stay with it."""
    if pod.kind == "Job":
        return ""  # mounts no token and runs for seconds
    accounts = of_kind(pod.overlay, "ServiceAccount")
    name = pod.spec.get("serviceAccountName", "default")
    return "" if name == pod.name and name in accounts else f"serviceAccountName {name}"


def has_resources(pod: Pod) -> str:
    """Requests, a memory limit, and no CPU limit: throttling stops a whole event loop."""
    resources = pod.container.get("resources", {})
    wrong = {"cpu", "memory"} - set(resources.get("requests", {}))
    if set(resources.get("limits", {})) != {"memory"}:
        wrong.add("limits")
    return ", ".join(sorted(wrong))


def is_pinned(pod: Pod) -> str:
    """A tag that says which release."""
    image = pod.container["image"]
    tag = image.rpartition(":")[2] if ":" in image.rpartition("/")[2] else ""
    return image if tag in ("", "latest") else ""


def has_three_probes(pod: Pod) -> str:
    """Startup, liveness and readiness, all different."""
    if pod.kind == "Job":
        return ""
    kinds = ("startupProbe", "livenessProbe", "readinessProbe")
    found = [str(pod.container[kind]) for kind in kinds if kind in pod.container]
    return "" if len(set(found)) == 3 else f"{len(set(found))} probes"


def leaves_in_order(pod: Pod) -> str:
    """A preStop before SIGTERM, and time after it."""
    if pod.kind == "Job":
        return ""
    has_time = pod.spec.get("terminationGracePeriodSeconds", 30) > 30
    return "" if has_time and "preStop" in pod.container.get("lifecycle", {}) else "preStop"


def spreads_over_hosts(pod: Pod) -> str:
    """Over hosts and zones, if there are several."""
    if pod.kind == "Job":
        return ""
    keys = {each["topologyKey"] for each in pod.spec.get("topologySpreadConstraints", [])}
    return ", ".join({"kubernetes.io/hostname", "topology.kubernetes.io/zone"} - keys)


RULES: tuple[Rule, ...] = (
    runs_unprivileged, touches_no_host, mounts_no_token, has_an_account_of_its_own, has_resources,
    is_pinned, has_three_probes, leaves_in_order, spreads_over_hosts,
)  # fmt: skip


def breaches() -> Iterator[tuple[str, str, str]]:
    """(rule, object, what) of everything that breaks a rule."""
    for overlay in DEPLOYED:
        for pod in pods(overlay):
            for rule in RULES:
                if what := rule(pod):
                    yield rule.__name__, str(pod), what


def test_every_breach_has_an_exception_and_every_exception_a_breach() -> None:
    found = {(rule, where): what for rule, where, what in breaches()}
    excused = {(row["rule"], row["object"]) for row in EXCEPTIONS}
    assert {key: what for key, what in found.items() if key not in excused} == {}
    assert excused - found.keys() == set(), "exceptions that nothing needs"


def test_exceptions_say_why_and_until_when() -> None:
    for row in EXCEPTIONS:
        assert row.keys() == {"rule", "object", "reason", "expires"}
        assert row["reason"].endswith(".")
        assert row["expires"] > datetime.date.today(), f"the day of {row['object']} has come"  # noqa: DTZ011


def test_a_breach_is_seen() -> None:
    pod = next(pods("base"))
    broken = {**pod.owner, "spec": {"template": {"metadata": {"labels": {}}, "spec": {
        "containers": [{"image": "chatmesh", "securityContext": {}}], "securityContext": {},
        "hostNetwork": True,
    }}}}  # fmt: skip
    bad = Pod(pod.overlay, "Deployment", "bad", broken)
    assert all(rule(bad) for rule in RULES)


@pytest.mark.parametrize("overlay", DEPLOYED[1:])
def test_every_server_is_guarded_and_scaled(overlay: str) -> None:
    for kind in ("PodDisruptionBudget", "HorizontalPodAutoscaler"):
        assert of_kind(overlay, kind).keys() == set(SERVERS)
    for name, budget in of_kind(overlay, "PodDisruptionBudget").items():
        assert budget["spec"]["selector"]["matchLabels"] == {NAME: name}
        assert budget["spec"]["maxUnavailable"] == 1
    for name, scaler in of_kind(overlay, "HorizontalPodAutoscaler").items():
        assert scaler["spec"]["scaleTargetRef"]["name"] == name
        assert scaler["spec"]["minReplicas"] >= 2, "one replica is an outage at each replacement"
    for name, each in of_kind(overlay, "Deployment").items():
        assert "replicas" not in each["spec"], f"{name}: the autoscaler's number would be undone"
        assert each["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_the_autoscalers_own_metrics_exist() -> None:
    source = "".join(
        path.read_text()
        for folder in ("chatmesh/runtime", *(f"{server}_svc" for server in SERVERS))
        for path in (ROOT / folder).rglob("*.py")
    )
    scalers = of_kind("overlays/production-all", "HorizontalPodAutoscaler")
    named = {
        metric["pods"]["metric"]["name"]
        for scaler in scalers.values()
        for metric in scaler["spec"]["metrics"]
        if metric["type"] == "Pods"
    }
    assert named == {"chatmesh_sessions", "chatmesh_sync_lag_seconds", "chatmesh_push_pending"}
    assert [name for name in named if f'"{name}"' not in source] == []


@pytest.mark.parametrize("overlay", DEPLOYED[1:])
def test_production_holds_no_secret(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == {}
    for each in render(overlay):
        if each["kind"] == "ConfigMap":
            assert not [key for key in each["data"] if "SECRET" in key or key.endswith("_KEY")]


def test_the_namespace_enforces_what_the_rules_ask() -> None:
    labels: dict[str, Any] = of_kind("base", "Namespace")["chatmesh"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_production_talks_in_the_open_to_nobody() -> None:
    for pod in pods("overlays/production"):
        names = {each["name"] for each in pod.container["env"]}
        assert not names & {"CHATMESH_MESH_INSECURE", "CHATMESH_PUBLIC_INSECURE"}
        if pod.name in SERVERS:
            assert {f"CHATMESH_MESH_TLS_{part}" for part in ("CA", "CERT", "KEY")} <= names
    data = of_kind("overlays/production", "ConfigMap")["chatmesh"]["data"]
    assert not [name for name in data if name.endswith("_INSECURE")]
