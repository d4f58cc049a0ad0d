"""Every object of every overlay fits Kubernetes' own schemas, or the ones kept here for CRDs."""

from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from tests.k8s.rendering import OVERLAYS, POST, Manifest, render

OLDEST = "1.30"
"""The oldest Kubernetes that k8s/README.md promises: preStop `sleep` came on by default with it."""


def obj(required: list[str], **properties: Any) -> dict[str, Any]:
    """A closed object: a misspelt field is an error, as in the API server's strict mode."""
    return {
        "type": "object", "required": required, "additionalProperties": False,
        "properties": properties,
    }  # fmt: skip


TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
DURATION = {"type": "string", "pattern": r"^\d+(h|m|s)$"}
KEY = obj(
    ["algorithm", "size"],
    algorithm={"enum": ["ECDSA", "RSA", "Ed25519"]},
    size={"type": "integer"},
    rotationPolicy={"enum": ["Always", "Never"]},
)
# The fields that are used, as the projects' documentation describes them.
CRDS = {
    "cert-manager.io/v1 Issuer": obj(
        [], selfSigned=obj([]), ca=obj(["secretName"], secretName=TEXT)
    ),
    "cert-manager.io/v1 Certificate": obj(
        ["secretName", "issuerRef"],
        secretName=TEXT, issuerRef=obj(["name"], name=TEXT), isCA={"type": "boolean"},
        commonName=TEXT, uris=TEXTS, dnsNames=TEXTS, usages=TEXTS, duration=DURATION,
        renewBefore=DURATION, privateKey=KEY,
    ),
    "gateway.networking.k8s.io/v1 GRPCRoute": obj(
        ["parentRefs", "rules"],
        parentRefs={"type": "array", "items": obj(["name"], name=TEXT, namespace=TEXT)},
        hostnames=TEXTS,
        rules={"type": "array", "items": obj(
            ["backendRefs"],
            matches={"type": "array", "items": obj(["method"], method=obj(
                ["type"], type={"enum": ["Exact", "RegularExpression"]}, service=TEXT, method=TEXT,
            ))},
            backendRefs={"type": "array", "items": obj(["name", "port"], name=TEXT, port=PORT)},
        )},
    ),
    "monitoring.coreos.com/v1 ServiceMonitor": obj(
        ["selector", "endpoints"],
        selector=obj([], matchLabels={"type": "object"}),
        endpoints={"type": "array", "items": obj(["port"], port=TEXT, interval=DURATION)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("overlay", [*OVERLAYS, POST])
def test_every_object_fits_its_schema(overlay: str) -> None:
    for each in render(overlay):
        kind = f"{each['apiVersion']} {each['kind']}"
        if kind in CRDS:
            jsonschema.validate(each["spec"], CRDS[kind])
            continue
        kubernetes_validate.validate(each, OLDEST, strict=True)


def test_the_newest_schemas_are_fit_as_well() -> None:
    newest = kubernetes_validate.latest_version()
    for each in render("overlays/production-all"):
        if f"{each['apiVersion']} {each['kind']}" not in CRDS:
            kubernetes_validate.validate(each, newest, strict=True)


def test_a_wrong_object_is_refused() -> None:
    deployment: Manifest = next(e for e in render("base") if e["kind"] == "Deployment")
    broken = {**deployment, "spec": {**deployment["spec"], "replicas": "two"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, OLDEST, strict=True)


@pytest.mark.parametrize("overlay", [*OVERLAYS, POST])
def test_everything_is_in_the_namespace(overlay: str) -> None:
    for each in render(overlay):
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == "chatmesh", each["metadata"]["name"]
