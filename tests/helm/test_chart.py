"""The chart renders, what it renders is what Kubernetes and KubeRay take, and wrong values are refused in words."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.config import FleetConfig, RouterConfig, load_config
from contracts.config.names import is_name
from tests.helm.chart import CHART, EXAMPLES, LEAST, Refused, Rendered, Renderer
from tests.helm.schemas import fault, pod_fault

CHOICES: Mapping[str, tuple[Any, ...]] = {
    "ray.enabled": (True, False),
    "security.insecure": (False, True),
    "security.certificates": ({"create": False}, {"create": True}, {"issuer": {"name": "corporate"}}),
    "store.url": ("", "redis://elsewhere:6379/1", "redis+sentinel://a:1,b:2/main/0"),
    "store.config": ({}, {"journal": "fsynced", "keep_s": 60, "lease_s": 1.5}, {"when_cut_off": "continue"}),
    "router.replicas": (1, 2, 3),
    "router.config": ({}, {"mode": "pearl", "max_waiting": 1_000_000, "client_grace_s": 0.5}),
    "models.claim": ({}, {"existing": "models"}, {"create": True}),
    "networkPolicy.enabled": (True, False),
    "networkPolicy.monitoring": ([], [{"namespaceSelector": {}}]),
    "verifier.gpus": (0, 8),
    "verifier.evictable": (True, False),
    "verifier.prune": ([], [{"layer": 3, "max_above": 9}]),
    "engine.kv_cache_bytes": ("auto", "2GiB"),
    "drafters": (
        {},
        {"a": {"kind": "recycling"}},
        {"z": {"kind": "model", "engine": {"model": "/models/z", "num_threads": 2}, "gpus": 1, "replicas": 2}},
        {"a": {"kind": "recycling", "replicas": 0}},
        {"m": {"kind": "trigram", "autoscaling": {"min": 2, "max": 3}}, "n": {"kind": "stand", "replicas": 3}},
    ),
    "monitoring.serviceMonitor": (True, False),
    "monitoring.podMonitors": (True, False),
    "monitoring.rules": (True, False),
    "monitoring.dashboards": ({"enabled": True}, {"enabled": False}),
    "gateway": ({}, {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["a.example.com"]}),
    "ingress": ({}, {"enabled": True, "host": "a.example.com", "tlsSecret": "a"}),
    "fullnameOverride": ("", "fleet-of-mine"),
}
NUM_COMBINATIONS = 24
STAND = {"kind": "stand"}
MONITORED = {"keySecret": {"name": "key"}, "prometheusUrl": "http://prometheus:9090"}


def combination(seed: int) -> dict[str, Any]:
    """Values chosen by chance, each choice of every one of them in some combination."""
    chance = random.Random(seed)
    made: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(LEAST)))
    made["monitoring"] = dict(MONITORED)
    for key, choices in CHOICES.items():
        # The first ones go through all choices in order, so that none is left to chance.
        put(made, key, choices[seed] if seed < len(choices) else chance.choice(choices))
    return made


def put(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
    if isinstance(value, dict) and isinstance(values.get(last), dict):
        values[last].update(value)
    else:
        values[last] = value


def check(rendered: Rendered) -> FleetConfig:
    """What holds for every release; the fleet that its processes read."""
    faults = [fault(manifest) for manifest in rendered.manifests]
    faults += [pod_fault(template) for _, template in rendered.pods()]
    assert not any(faults), "\n".join(filter(None, faults))
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in rendered.manifests]
    assert len(names) == len(set(names)), "two objects of one kind and name"
    return load_config(rendered.fleet_file)


def started(rendered: Rendered) -> list[str]:
    """The names of all drafters that pods start as."""
    names = []
    for _, container, _ in rendered.containers():
        if container["name"] == "drafter":
            names += [word.removeprefix("--name=") for word in container["args"] if word.startswith("--name=")]
    return names


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_examples_are_right(render: Renderer, example: Path) -> None:
    rendered = render(files=[example])
    config = check(rendered)
    given = yaml.safe_load(example.read_text())
    assert config.engine.model == given["engine"]["model"]
    assert config.drafters.keys() >= {
        name for name, of in given["drafters"].items() if not set(of) & {"replicas", "autoscaling"}
    }
    render.run("lint", "--strict", str(CHART), "--values", str(example))


@pytest.mark.parametrize("seed", range(NUM_COMBINATIONS))
def test_combinations_are_right(render: Renderer, seed: int) -> None:
    values = combination(seed)
    config = check(render(values))
    for key in ("mode", "max_waiting"):
        assert getattr(config.router, key) == values["router"]["config"].get(key, getattr(RouterConfig(), key))
    assert config.security.insecure == values["security"]["insecure"]


def test_every_drafter_of_the_file_is_started_once(render: Renderer) -> None:
    values = {
        **LEAST,
        "drafters": {
            "one": {"kind": "recycling"},
            "three": {"kind": "recycling", "replicas": 3},
            "grows": {"kind": "recycling", "autoscaling": {"min": 1, "max": 2}},
        },
        "monitoring": MONITORED,
    }
    for on_ray in (True, False):
        rendered = render({**values, "ray": {"enabled": on_ray}})
        names = [each for name in started(rendered) for each in by_ordinal(name, rendered)]
        assert (
            sorted(names)
            == sorted(check(rendered).drafters)
            == ["grows-0", "grows-1", "one", "three-0", "three-1", "three-2"]
        )
        assert all(map(is_name, names))


def by_ordinal(name: str, rendered: Rendered) -> list[str]:
    """What the name stands for in the pods of a set."""
    stem, marker, _ = name.partition("$(POD_INDEX)")
    if not marker:
        return [name]
    of = rendered.of("StatefulSet", stem.removesuffix("-"))
    scaled = [
        each["spec"]
        for each in rendered.all("ScaledObject")
        if each["spec"]["scaleTargetRef"]["name"] == of["metadata"]["name"]
    ]
    most = scaled[0]["maxReplicaCount"] if scaled else of["spec"]["replicas"]
    return [f"{stem}{ordinal}" for ordinal in range(most)]


def test_the_drafter_of_modes_with_one_comes_first(render: Renderer) -> None:
    drafters = {name: {"kind": "recycling"} for name in ("a", "b", "c")}
    assert list(check(render({**LEAST, "drafters": drafters})).drafters) == ["a", "b", "c"]
    chosen = render({**LEAST, "drafters": drafters, "router": {"firstDrafter": "b"}})
    assert list(check(chosen).drafters) == ["b", "a", "c"]


def test_a_worker_pod_is_made_anew_for_what_it_reads_alone(render: Renderer) -> None:
    def sums(values: Mapping[str, Any]) -> dict[str, str]:
        rendered = render({**LEAST, "ray": {"enabled": False}, **values})
        pods = rendered.pods()
        return {name: pod["metadata"].get("annotations", {}).get("checksum/fleet", "") for name, pod in pods}

    before = sums({"drafters": {"a": {"kind": "recycling"}}})
    after = sums({"drafters": {"a": {"kind": "recycling"}, "b": {"kind": "trigram"}}})
    changed = {name for name, value in before.items() if after[name] != value}
    assert changed == {"Deployment fleet-specfleet-router"}


def test_workers_reach_routers_that_are_not_ready_and_clients_do_not(render: Renderer) -> None:
    services = {each["metadata"]["name"]: each["spec"] for each in render(LEAST).all("Service")}
    fleet, grpc, http = (services[f"fleet-specfleet{ending}"] for ending in ("-fleet", "-grpc", ""))
    assert fleet["publishNotReadyAddresses"] is True
    assert "clusterIP" not in fleet
    assert grpc["clusterIP"] == "None"
    for of in (grpc, http):
        assert "publishNotReadyAddresses" not in of


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "engine.model is empty; it must be"),
        ({"engine": {"model": "m"}}, "security.apiKeysSecret.name is empty; make keys with"),
        ({"engine": {"model": "m"}, "security": LEAST["security"]}, "store.passwordSecret.name is empty"),
        ({"store": {"url": "redis://:secret@host:6379/0"}}, "store.url has a user or a password in it"),
        ({"store": {"own": {"enabled": False}}}, "store.url is empty and store.own.enabled is false"),
        ({"store": {"caSecret": {"name": "ca"}}}, "store.url does not use TLS"),
        ({"engine": {"tensor_parallel": 4}, "verifier": {"gpus": 2}}, "gpus is 2 and engine.tensor_parallel is 4"),
        ({"drafters": {"a": {"kind": "model"}}}, "drafters.a is of kind model and has no engine.model"),
        ({"drafters": {"a": {**STAND, "engine": {"model": "m"}}}}, "drafters.a is of kind stand and engine is given"),
        ({"drafters": {"verifier": {"kind": "stand"}}}, "drafters has the name verifier"),
        ({"drafters": {"a": {**STAND, "autoscaling": {"min": 3, "max": 2}}}}, "has min 3 and max 2"),
        ({"drafters": {"a": {**STAND, "autoscaling": {"min": 1, "max": 2}}}}, "monitoring.prometheusUrl is empty"),
        ({"router": {"firstDrafter": "b"}, "drafters": {"a": STAND}}, 'router.firstDrafter is "b"; drafters are: a'),
        ({"models": {"download": ["a/b"]}}, "models.download is given and there is no claim"),
        ({"models": {"image": "a", "claim": {"existing": "b"}}}, "models.image and models.claim are both given"),
        ({"monitoring": {"serviceMonitor": True}}, "monitoring.keySecret.name is empty; /metrics asks for an API key"),
        ({"ingress": {"enabled": True}}, "ingress.host is empty"),
        ({"gateway": {"enabled": True}}, "gateway.parentRefs is empty"),
        ({"router": {"replica": 3}}, "at '/router': additional properties 'replica' not allowed"),
        ({"router": {"replicas": 0}}, "at '/router/replicas': minimum: got 0, want 1"),
        ({"router": {"config": {"host": "127.0.0.1"}}}, "at '/router/config/host'"),
        ({"engine": {"dtype": "fp8"}}, "at '/engine/dtype': value must be one of 'auto', 'bfloat16', 'float32'"),
        ({"drafters": {"a": {"kind": "magic"}}}, "at '/drafters/a/kind'"),
        ({"drafters": {"a_b": {"kind": "stand"}}}, "a_b"),
        ({"store": {"config": {"journal": "maybe"}}}, "at '/store/config/journal'"),
        ({"store": {"config": {"password_file": "/etc/passwd"}}}, "at '/store/config/password_file'"),
        ({"security": {"certificates": {"duration": "3 months"}}}, "at '/security/certificates/duration'"),
        ({"image": {"digest": "sha256:12"}}, "at '/image/digest'"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_in_words(render: Renderer, values: Mapping[str, Any], said: str) -> None:
    given = {key: {**LEAST.get(key, {}), **of} for key, of in values.items()}
    if not said.startswith(("engine.model", "security.api", "store.pass")):
        given = {**LEAST, **given}
    with pytest.raises(Refused) as refusal:
        render(given)
    assert said in str(refusal.value)


def test_defaults_name_no_model_and_no_secret() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert defaults["engine"] == {"model": ""}
    assert defaults["drafters"] == {}
    assert defaults["models"]["download"] == []


def test_every_value_is_explained() -> None:
    sections = re.split(r"\n(?=[a-zA-Z#])", (CHART / "values.yaml").read_text())
    assert len(sections) > 15
    bare, before = [], ""
    for section in sections:
        if "#" not in before + section:
            bare.append(section)
        before = section if section.startswith("#") else ""
    assert not bare


def test_notes_tell_the_next_command(render: Renderer) -> None:
    values = ["--set", "engine.model=m,security.apiKeysSecret.name=k,store.passwordSecret.name=p"]
    said = render.run("install", "fleet", str(CHART), "--dry-run=client", "--namespace", "ns", *values)
    notes = said.partition("NOTES:")[2]
    assert "kubectl -n ns port-forward service/fleet-specfleet 8000:8000" in notes
    assert "https://localhost:8000/v1/models" in notes
