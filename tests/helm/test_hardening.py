"""Every pod of every example is closed: no root, nothing to write on, no privilege, bounds on what it takes."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from contracts.config import load_config
from specfleet.health import READY
from tests.helm.chart import EXAMPLES, LEAST, Manifest, Rendered, Renderer

PART = "app.kubernetes.io/component"
DRAFTERS: dict[str, dict[str, Any]] = {
    "a": {"kind": "recycling", "replicas": 2},
    "b": {"kind": "model", "engine": {"model": "m"}, "gpus": 1},
    "c": {"kind": "stand", "autoscaling": {"min": 1, "max": 2}},
    "d": {"kind": "model", "engine": {"model": "m"}, "withTarget": True},
}
EVERYTHING: dict[str, Any] = {
    **LEAST,
    "drafters": DRAFTERS,
    "models": {"claim": {"create": True}, "download": ["owner/name"], "tokenSecret": {"name": "hub"}},
    "monitoring": {"prometheusUrl": "http://prometheus:9090"},
    "security": {**LEAST["security"], "certificates": {"hosts": ["a.example.com", "10.1.2.3", "fd00::1"]}},
}


@pytest.fixture(params=[*EXAMPLES, True, False], ids=[*(file.stem for file in EXAMPLES), "on-ray", "without-ray"])
def rendered(render: Renderer, request: pytest.FixtureRequest) -> Rendered:
    if isinstance(request.param, Path):
        return render(files=[request.param])
    return render({**EVERYTHING, "ray": {"enabled": request.param}})


def test_pods_are_closed(rendered: Rendered) -> None:
    faults = [fault for owner, pod in rendered.pods() for fault in pod_faults(owner, pod["spec"])]
    faults += [fault for owner, of, pod in rendered.containers() for fault in container_faults(owner, of, pod)]
    assert not faults, "\n".join(faults)
    assert len(list(rendered.containers())) > 3


def pod_faults(owner: str, spec: Manifest) -> Iterator[str]:
    security = spec["securityContext"]
    if not (security["runAsNonRoot"] and security["runAsUser"] > 0 and security["fsGroup"] > 0):
        yield f"{owner} may be root"
    if security["seccompProfile"] != {"type": "RuntimeDefault"}:
        yield f"{owner} may make any system call"
    if spec["automountServiceAccountToken"] is not False:
        yield f"{owner} can talk to Kubernetes"
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield f"{owner} shares the node's namespaces"
    if not spec["topologySpreadConstraints"]:
        yield f"{owner} is not spread"
    for volume in spec["volumes"]:
        if "hostPath" in volume:
            yield f"{owner} mounts {volume['name']} of the node"
        if "secret" in volume and volume["secret"]["defaultMode"] != 0o440:
            yield f"{owner} lets everyone read {volume['name']}"


def container_faults(owner: str, container: Manifest, spec: Manifest) -> Iterator[str]:
    security = container["securityContext"]
    wanted = {"runAsNonRoot": True, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False}
    for key, value in wanted.items():
        if security.get(key) is not value:
            yield f"{owner}: {key} is {security.get(key)}"
    if security["capabilities"] != {"drop": ["ALL"]}:
        yield f"{owner} has capabilities"
    resources = container["resources"]
    if not {"cpu", "memory"} <= resources["requests"].keys() or "memory" not in resources["limits"]:
        yield f"{owner} takes what it likes: {resources}"
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    if missing := mounts.keys() - {volume["name"] for volume in spec["volumes"]} - {"data"}:
        yield f"{owner} mounts {', '.join(missing)}, which is no volume"
    for name, mount in mounts.items():
        if name in ("tls", "tls-drafter", "keys", "store", "store-ca", "fleet", "hub", "password") and not mount.get(
            "readOnly"
        ):
            yield f"{owner} may write {name}"
    for variable in container.get("env", []):
        if "value" in variable and "TOKEN" in variable["name"] and not variable["name"].endswith("_PATH"):
            yield f"{owner} has {variable['name']} in its environment"


def test_each_process_has_the_certificates_of_its_own_role(rendered: Rendered) -> None:
    """And the target's, where drafters live in it, of theirs."""
    shown: dict[str, set[str]] = {}
    for _, container, spec in rendered.containers():
        for mount in container["volumeMounts"]:
            if mount["name"].startswith("tls"):
                (volume,) = (volume for volume in spec["volumes"] if volume["name"] == mount["name"])
                # A node of Ray's has the certificates of the actors that its labels let in.
                part = spec["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"][PART]
                role = mount["mountPath"].removeprefix("/etc/specfleet/tls/")
                assert volume["secret"]["secretName"].endswith(f"-{role}")
                shown.setdefault(part, set()).add(role)
    has_guests = any(of.with_target for of in load_config(rendered.fleet_file).drafters.values())
    of_verifier = {"verifier", "drafter"} if has_guests else {"verifier"}
    assert shown == {"router": {"router"}, "verifier": of_verifier, "drafter": {"drafter"}}


def test_network_is_closed(rendered: Rendered) -> None:
    policies = {
        each["metadata"]["name"].removeprefix("fleet-specfleet-"): each["spec"]
        for each in rendered.all("NetworkPolicy")
    }
    closed = policies["closed"]
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in closed
    assert [port["port"] for rule in closed["egress"] for port in rule["ports"]] == [53, 53]
    for owner, pod in rendered.pods():
        assert closed["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items(), owner
    for name, policy in policies.items():
        for rule in policy.get("ingress", []):
            assert rule.get("from"), f"{name} lets everyone in"
    if "ray" in policies:
        let_in = policies["ray"]["podSelector"]["matchLabels"].items()
        assert policies["ray"]["ingress"][0]["from"] == [{"podSelector": policies["ray"]["podSelector"]}]
        on_ray = {owner for owner, pod in rendered.pods() if let_in <= pod["metadata"]["labels"].items()}
        wanted = {owner for owner, _ in rendered.pods() if owner.startswith("RayCluster ")}
        assert on_ray == wanted | {"Deployment fleet-specfleet-supervisor"}, "and no drafter that is a pod of its own"


def test_certificates_say_one_role_each(rendered: Rendered) -> None:
    certificates = {each["metadata"]["name"].rpartition("-")[2]: each["spec"] for each in rendered.all("Certificate")}
    certificates.pop("ca", None)
    assert certificates.keys() == {"router", "verifier", "drafter", "client", "admin"}
    for role, of in certificates.items():
        assert of["uris"] == [f"spiffe://specfleet/{role}"]
        assert of["usages"] == ["digital signature", "server auth" if role == "router" else "client auth"]
        assert ("dnsNames" in of) is (role == "router")
    of = certificates["router"]
    assert [is_address(each) for each in of["dnsNames"] + of["ipAddresses"]] == sorted(
        [False] * len(of["dnsNames"]) + [True] * len(of["ipAddresses"])
    )
    dialled = {
        word.removeprefix("--router=").partition(":")[0]
        for _, of, _ in rendered.containers()
        for word in of.get("args", [])
        if word.startswith("--router=")
    }
    assert dialled <= set(of["dnsNames"])


def is_address(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


@pytest.mark.parametrize("insecure", [False, True])
@pytest.mark.parametrize("on_ray", [False, True])
def test_probes_are_gprcs_own_and_need_no_certificate(render: Renderer, *, insecure: bool, on_ray: bool) -> None:
    security = {"insecure": True} if insecure else LEAST["security"]
    rendered = render({**LEAST, "security": security, "ray": {"enabled": on_ray}, "drafters": {"a": DRAFTERS["a"]}})
    asked = {}
    for _, container, _ in rendered.containers():
        if container["name"] in ("router", "verifier", "drafter", "supervisor"):
            asked[container["name"]] = container
            assert "--health=0.0.0.0:8081" in container["args"]
            for probe in ("startupProbe", "livenessProbe"):
                assert container[probe]["grpc"] == {"port": 8081}
            assert container["readinessProbe"]["grpc"] == {"port": 8081, "service": READY}
    assert asked.keys() == {"router", *(["supervisor"] if on_ray else ["verifier", "drafter"])}
    for policy in rendered.all("NetworkPolicy"):
        assert "8081" not in str(policy["spec"]), "whoever asks comes from the node itself"


def test_the_grace_of_a_router_covers_its_handover_and_of_a_worker_may_be_none(render: Renderer) -> None:
    at_once = {"graceSeconds": 0}
    drafters = {"a": {"kind": "stand", **at_once}, "b": {**DRAFTERS["c"], **at_once}}
    router = {"handoverSeconds": 30, "graceSeconds": 20}
    more = {"verifier": at_once, "drafters": drafters, "monitoring": EVERYTHING["monitoring"]}
    rendered = render({**LEAST, "router": router, **more})
    pod = rendered.of("Deployment", "-router")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 50
    assert pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] == 30
    workers = [of["spec"] for _, of in rendered.pods() if of["metadata"]["labels"][PART] in ("verifier", "drafter")]
    assert [of["terminationGracePeriodSeconds"] for of in workers] == [0, 0, 0]
