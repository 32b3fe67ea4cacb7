"""Is a manifest what Kubernetes and KubeRay take? Strictly: a key that nobody knows is a fault."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]

from tests.helm.chart import Manifest

__all__ = ["FOREIGN", "fault", "pod_fault"]

_KUBERNETES = "1.34"
_RAYCLUSTER = Path(__file__).parent / "crds" / "raycluster.json"
FOREIGN = frozenset(
    {
        "cert-manager.io/v1",
        "gateway.networking.k8s.io/v1",
        "keda.sh/v1alpha1",
        "monitoring.coreos.com/v1",
    }
)
"""Of operators whose definitions we have not got: rendered, and looked at by tests of their own."""


def fault(manifest: Manifest) -> str:
    """What is wrong with it, or nothing."""
    return "" if manifest["apiVersion"] in FOREIGN else _fault(json.dumps(manifest))


def pod_fault(template: Manifest) -> str:
    """What Kubernetes finds wrong with a pod's template, wherever that stands."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **template["metadata"]}}
    return _fault(json.dumps({**pod, "spec": template["spec"]}))


@cache  # most of a release is the same for most values
def _fault(written: str) -> str:
    manifest = json.loads(written)
    return _fault_of_ray(manifest) if manifest["apiVersion"] == "ray.io/v1" else _fault_of_kubernetes(manifest)


def _fault_of_kubernetes(manifest: Manifest) -> str:
    try:
        kubernetes_validate.validate(dict(manifest), _KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{manifest['kind']} {manifest['metadata']['name']}: {'.'.join(map(str, error.path))}: {error.message}"
    return ""


def _fault_of_ray(manifest: Manifest) -> str:
    errors = [f"{error.json_path}: {error.message}" for error in _ray().iter_errors(dict(manifest))]
    return "; ".join(errors)


@cache
def _ray() -> jsonschema.Draft202012Validator:
    found = json.loads(_RAYCLUSTER.read_text(encoding="utf-8"))
    schema = _strict(found["schema"])
    schema["podTemplate"] = _strict(found["podTemplate"])
    schema["properties"]["kind"] = {"const": found["kind"]}
    return jsonschema.Draft202012Validator(schema)


def _strict(node: Any) -> Any:
    """An OpenAPI schema of Kubernetes as a JSON schema, in which objects have no keys but their own."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _strict(value) for key, value in node.items()}
    if "properties" in node:
        made["properties"] = {key: _strict(value) for key, value in node["properties"].items()}
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if made.pop("nullable", False):
        made["type"] = [made["type"], "null"]
    is_open = made.pop("x-kubernetes-preserve-unknown-fields", False)
    # The metadata of objects is Kubernetes' own, and left open in definitions.
    if node.get("type") == "object" and "properties" in node and "additionalProperties" not in node and not is_open:
        made["additionalProperties"] = False
    return made
