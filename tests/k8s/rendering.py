"""The overlays as kustomize renders them, and ways to look at the result.

Rules: rendered once a process; objects are what a cluster would be given.
"""

import functools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ("base", "overlays/dev", "overlays/production", "overlays/production-all")
DEPLOYED = OVERLAYS[1:]
"""What is applied; the base alone lacks the ways to the stores."""
POST = "jobs/migrate-post"
"""Applied by itself, after a rollout."""
SERVERS = ("chat", "presence", "push", "sequencer", "sync")
NAME = "app.kubernetes.io/name"
Manifest = dict[str, Any]


@functools.cache
def render(overlay: str) -> tuple[Manifest, ...]:
    """All objects of an overlay."""
    done = subprocess.run(
        [Path(sys.executable).with_name("kubectl"), "kustomize", ROOT / "k8s" / overlay],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "kustomize warns"
    return tuple(each for each in yaml.safe_load_all(done.stdout) if each)


def of_kind(overlay: str, *kinds: str) -> dict[str, Manifest]:
    """Objects of these kinds, by name."""
    return {each["metadata"]["name"]: each for each in render(overlay) if each["kind"] in kinds}


@dataclass(frozen=True)
class Pod:
    """What an overlay runs: a pod template and whose it is."""

    overlay: str
    kind: str
    name: str
    owner: Manifest

    @property
    def spec(self) -> Manifest:
        """The pod's spec."""
        spec: Manifest = self.owner["spec"]["template"]["spec"]
        return spec

    @property
    def labels(self) -> dict[str, str]:
        """The pod's labels."""
        labels: dict[str, str] = self.owner["spec"]["template"]["metadata"]["labels"]
        return labels

    @property
    def container(self) -> Manifest:
        """Its only container."""
        (container,) = self.spec["containers"]
        found: Manifest = container
        return found

    def __str__(self) -> str:
        return f"{self.overlay} {self.kind} {self.name}"


def pods(overlay: str) -> Iterator[Pod]:
    """Everything with a pod template."""
    for name, owner in of_kind(overlay, "Deployment", "StatefulSet", "Job").items():
        yield Pod(overlay, owner["kind"], name, owner)


def servers(overlay: str) -> dict[str, Pod]:
    """The five servers' pods, by short name."""
    return {pod.name: pod for pod in pods(overlay) if pod.name in SERVERS}


def port_of(address: str) -> int:
    """The port of HOST:PORT or of a target that ends in it."""
    return int(address.rpartition(":")[2])


def config_map(overlay: str) -> dict[str, str]:
    """What all servers are given."""
    data: dict[str, str] = of_kind(overlay, "ConfigMap")["chatmesh"]["data"]
    return data


def literals(pod: Pod) -> dict[str, str]:
    """Variables with a value in the manifest, the shared ones included."""
    given = config_map(pod.overlay) if "envFrom" in pod.container else {}
    own = {each["name"]: each["value"] for each in pod.container["env"] if "value" in each}
    return {**given, **own}


def secrets_of(pod: Pod) -> dict[str, tuple[str, str]]:
    """Variable → (secret, key)."""
    found = {}
    for each in pod.container["env"]:
        reference = each.get("valueFrom", {}).get("secretKeyRef")
        if reference:
            found[each["name"]] = (reference["name"], reference["key"])
    return found
