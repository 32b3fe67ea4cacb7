"""The chart renders, what it renders is what Kubernetes and KubeRay take, and wrong values are refused in words."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.plan import drafters_of
from contracts.config import RouterConfig
from tests.helm.api_server import api_server
from tests.helm.chart import CHART, EXAMPLES, LEAST, Refused, Renderer
from tests.helm.release import STAND, check, nodes, placed, started, sums

CHOICES: Mapping[str, tuple[Any, ...]] = {
    "ray.enabled": (True, False),
    "security.insecure": (False, True),
    "security.certificates": ({"create": False}, {"create": True}, {"issuer": {"name": "corporate"}}),
    "store": (
        {},
        {"enabled": False, "url": "redis://elsewhere:6379/1"},
        {"enabled": False, "url": "redis+sentinel://a:1,b:2/main/0"},
        {"size": "20Gi", "storageClass": "fast"},
    ),
    "store.config": ({}, {"journal": "fsynced", "keep_s": 60, "lease_s": 1.5}, {"when_cut_off": "continue"}),
    "router.replicas": (1, 2, 3),
    "router.autoscaling": ({}, {"enabled": True, "by": "hpa"}, {"enabled": True, "min": 1, "max": 9, "waiting": 8}),
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
        {"g": {"kind": "model", "engine": {"model": "/models/g"}, "withTarget": True}, "h": {"kind": "stand"}},
        {
            "m": {"kind": "trigram", "autoscaling": {"min": 2, "max": 3, "by": "hpa"}},
            "n": {"kind": "stand", "replicas": 3},
        },
    ),
    "monitoring.serviceMonitor": (True, False),
    "monitoring.podMonitors": (True, False),
    "monitoring.rules": (True, False),
    "monitoring.dashboards": ({"enabled": True}, {"enabled": False}),
    "gateway": ({}, {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["a.example.com"]}),
    "ingress": ({}, {"enabled": True, "host": "a.example.com", "tlsSecret": "a"}),
    "tracing.endpoint": ("", "http://collector:4317"),
    "fullnameOverride": ("", "fleet-of-mine"),
}
NUM_COMBINATIONS = 24
GROWS = {"enabled": True}
ELSEWHERE = {"enabled": False, "url": "redis://a:1/0"}
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


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_examples_are_right(render: Renderer, example: Path) -> None:
    rendered = render(files=[example])
    config = check(rendered)
    given = yaml.safe_load(example.read_text())
    assert config.engine.model == given["engine"]["model"]
    assert config.drafters.keys() == given["drafters"].keys()
    if {"ingress", "gateway"} & given.keys():
        peers = [peer for rule in rendered.of("NetworkPolicy", "-router")["spec"]["ingress"] for peer in rule["from"]]
        assert any("namespaceSelector" in peer for peer in peers), "what clients come by is let in"
    render.run("lint", "--strict", "--with-subcharts", str(CHART), "--values", str(example))


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
            "none": {"kind": "recycling", "replicas": 0},
            "grows": {"kind": "recycling", "autoscaling": {"min": 1, "max": 2}},
        },
        "monitoring": MONITORED,
    }
    on_ray, without = (render({**values, "ray": {"enabled": enabled}}) for enabled in (True, False))
    assert sorted(started(on_ray)) == ["grows-0", "grows-1"]
    assert placed(on_ray) == {"verifier": "verifier", "one": "one"} | {f"three-{n}": "three" for n in range(3)}
    assert sorted(started(without)) == ["grows-0", "grows-1", "one", "three-0", "three-1", "three-2"]
    for rendered in (on_ray, without):
        assert list(check(rendered).drafters) == ["grows", "none", "one", "three"]
    assert not without.all("RayCluster")
    assert drafters_of(check(without)) == {}, "nothing is left for a supervisor"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_what_is_placed_fits_on_the_nodes_that_there_are(render: Renderer, example: Path) -> None:
    rendered = render(files=[example])
    if rendered.all("RayCluster"):
        where = placed(rendered)
        assert where["verifier"] == "verifier"
        assert set(where.values()) == {node.name for node in nodes(rendered)}, "no node stands idle"


def test_the_target_has_the_processors_that_its_threads_keep_busy(render: Renderer) -> None:
    engine = {"model": "/models/target", "num_threads": 6, "tensor_parallel": 2}
    (node,) = nodes(render({**LEAST, "engine": engine}))
    assert (node.amounts["CPU"], node.amounts["GPU"]) == (12.0, 0.0)
    (node,) = nodes(render({**LEAST, "engine": engine, "verifier": {"gpus": 2}}))
    assert (node.amounts["CPU"], node.amounts["GPU"]) == (2.0, 2.0)


def test_a_worker_asks_for_no_more_than_it_may_take_where_one_of_them_is_left_out(render: Renderer) -> None:
    drafters = {"a": {"limits": {"cpu": "500m", "memory": "1Gi"}}, "b": {"requests": {"memory": "3Gi"}}}
    rendered = render({**LEAST, "drafters": {name: {**STAND, "resources": of} for name, of in drafters.items()}})
    found = {owner: of["resources"] for owner, of, _ in rendered.containers()}
    a, b = (found[f"RayCluster fleet-specfleet {name}: ray-worker"] for name in drafters)
    assert a == {"requests": drafters["a"]["limits"], "limits": drafters["a"]["limits"]}
    assert b == {"requests": {"cpu": "1", "memory": "3Gi"}, "limits": {"memory": "3Gi"}}


def test_devices_are_those_of_the_pods_unless_said_otherwise(render: Renderer) -> None:
    model = {"kind": "model", "engine": {"model": "/models/a"}}
    values = {**LEAST, "verifier": {"gpus": 1}, "drafters": {"a": model, "b": {**model, "gpus": 1}}}
    config = check(render(values))
    devices = {name: of.engine.device for name, of in config.drafters.items() if of.engine is not None}
    assert (config.engine.device, devices) == ("cuda", {"a": "cpu", "b": "cuda"})
    said = {**LEAST, "engine": {**LEAST["engine"], "device": "auto"}}
    assert check(render(said)).engine.device == "auto"


def test_a_supervisor_is_told_where_router_and_ray_are(render: Renderer) -> None:
    pod = render(LEAST).of("Deployment", "-supervisor")["spec"]["template"]["spec"]
    (beside,), (supervisor,) = pod["initContainers"], pod["containers"]
    given = dict(word.split("=", 1) for word in supervisor["args"])
    assert given["--router"] == "fleet-specfleet-fleet.ns.svc:50051"
    assert f"--address={given['--address']}" in beside["args"]
    assert given["--address"] == "fleet-specfleet-head-svc.ns.svc:6379"
    assert beside["restartPolicy"] == "Always", "a sidecar: it is there before the supervisor, and as long"
    assert f"--node-manager-port={beside['startupProbe']['tcpSocket']['port']}" in beside["args"]
    for container in (beside, supervisor):
        assert {"name": "RAY_AUTH_TOKEN_PATH", "value": "/etc/specfleet/ray/token"} in container["env"]
        assert {mount["name"] for mount in container["volumeMounts"]} >= {"tmp", "shm", "ray-token"}


def test_a_head_that_remembers_reaches_the_store(render: Renderer) -> None:
    rendered = render({**LEAST, "ray": {"faultTolerant": True}})
    check(rendered)
    memory = rendered.of("RayCluster")["spec"]["gcsFaultToleranceOptions"]
    store = rendered.of("Service", "-store")["metadata"]["name"]
    assert memory["redisAddress"] == f"redis://{store}.ns.svc:6379"
    assert memory["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == "specfleet-store"
    (rule,) = rendered.of("NetworkPolicy", "-ray-head")["spec"]["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 6379}]
    for values in ({"faultTolerant": False}, {"faultTolerant": True, "enabled": False}):
        without = render({**LEAST, "ray": values})
        assert "ray-head" not in str(without.of("NetworkPolicy", "-specfleet-store")["spec"]["ingress"])


def test_drafters_scale_by_keda_or_by_kubernetes_alone(render: Renderer) -> None:
    grows = {"kind": "recycling", "autoscaling": {"min": 2, "max": 5, "waitShare": 0.25, "by": "hpa"}}
    rendered = render({**LEAST, "drafters": {"grows": grows}})
    scaler = rendered.of("HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == rendered.of("StatefulSet", "-grows")["metadata"]["name"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 5)
    assert scaler["metrics"][0]["external"]["target"]["value"] == "0.25"
    assert not rendered.all("ScaledObject")


def test_routers_scale_by_keda_or_by_kubernetes_alone(render: Renderer) -> None:
    """The Deployment leaves its scale to the scaler, which shares out the queue over routers, ready or not."""
    scaling = {"enabled": True, "min": 2, "max": 4, "waiting": 16}
    alone = {"replicas": 1, "autoscaling": scaling}
    values = {**LEAST, "monitoring": MONITORED}
    by_keda = render({**values, "router": alone})
    by_hpa = render({**values, "router": {**alone, "autoscaling": {**scaling, "by": "hpa"}}})
    of, (trigger,) = by_keda.of("ScaledObject")["spec"], by_keda.of("ScaledObject")["spec"]["triggers"]
    assert (of["minReplicaCount"], of["maxReplicaCount"]) == (2, 4)
    assert (trigger["metricType"], trigger["metadata"]["threshold"]) == ("AverageValue", "16")
    scaler = by_hpa.of("HorizontalPodAutoscaler")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 4)
    assert scaler["metrics"][0]["external"]["target"] == {"type": "AverageValue", "averageValue": "16"}
    for rendered, found in ((by_keda, of), (by_hpa, scaler)):
        router = rendered.of("Deployment", "-router")
        assert found["scaleTargetRef"] == {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": router["metadata"]["name"],
        }
        assert "replicas" not in router["spec"], "helm would set back what the scaler has set"
        assert check(rendered).store.when_cut_off == "stop", "another router may lead"
    assert not render(values).all("ScaledObject"), "off unless asked for"


def test_an_upgrade_leaves_as_many_routers_as_the_scaler_has_made(render: Renderer) -> None:
    """Without a number where one was before, Kubernetes would take the spares away until the scaler acts again."""
    values = {**LEAST, "router": {"autoscaling": {"enabled": True, "by": "hpa"}}}
    new = render(values)
    router = new.of("Deployment", "-router")
    owned = {"meta.helm.sh/release-name": "fleet", "meta.helm.sh/release-namespace": "ns"}
    running = {
        **router,
        "metadata": {**router["metadata"], "namespace": "ns", "annotations": owned},
        "spec": {**router["spec"], "replicas": 3},
    }
    with api_server(new.manifests, [running]) as cluster:
        assert render(values, cluster=cluster).of("Deployment", "-router")["spec"]["replicas"] == 3
    with api_server(new.manifests, []) as cluster:
        assert "replicas" not in render(values, cluster=cluster).of("Deployment", "-router")["spec"]


def test_the_own_store_is_a_subchart_that_a_store_elsewhere_replaces(render: Renderer) -> None:
    own = render({**LEAST, "store": {**LEAST["store"], "size": "20Gi", "storageClass": "fast"}})
    (claim,) = own.of("StatefulSet", "-store")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"] == {"requests": {"storage": "20Gi"}}
    service = own.of("Service", "-store")["metadata"]["name"]
    assert check(own).store.url == f"redis://{service}.ns.svc:6379/0"
    url = "redis://elsewhere:6379/1"
    without = render({**LEAST, "store": {**LEAST["store"], "enabled": False, "url": url}})
    assert check(without).store.url == url
    namespaces = check(own).store.namespace, check(without).store.namespace
    assert namespaces == ("default", "ns.fleet-specfleet"), "releases that share a store share no lease"
    assert [each for each in without.manifests if str(each["metadata"]["name"]).endswith("-store")] == []
    assert own.of("NetworkPolicy", "-specfleet-store")


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("redis://a:6380/0", [6380]),
        ("rediss://a/0", [7000]),
        ("redis://a:6381?db=1", [6381]),
        ("redis+sentinel://a:1,b/main/0", [7000, 1, 26379]),
        ("redis+cluster://a:1,b:1", [7000, 1]),
    ],
)
def test_routers_may_reach_the_ports_of_a_store_elsewhere(render: Renderer, url: str, ports: list[int]) -> None:
    store = {**LEAST["store"], "enabled": False, "url": url}
    rendered = render({**LEAST, "store": store, "networkPolicy": {"storePort": 7000}})
    check(rendered)
    (rule,) = rendered.of("NetworkPolicy", "-specfleet-router")["spec"]["egress"]
    assert [port["port"] for port in rule["ports"]] == ports


def test_what_a_job_does_is_in_its_name(render: Renderer) -> None:
    """For a job cannot be changed: an upgrade of the image would be refused."""
    models = {"claim": {"existing": "models"}, "download": ["owner/name"]}
    before, same, other = (
        render({**LEAST, "models": models, **more}).of("Job")
        for more in ({}, {"drafters": {"a": STAND}}, {"image": {"tag": "2"}})
    )
    assert same == before
    assert other["spec"]["template"] != before["spec"]["template"]
    assert other["metadata"]["name"] != before["metadata"]["name"]


def test_the_packed_chart_has_its_subchart_in_it(render: Renderer, tmp_path: Path) -> None:
    render.run("package", str(CHART), "--destination", str(tmp_path))
    (packed,) = tmp_path.glob("specfleet-*.tgz")
    assert render(LEAST, chart=packed).text == render(LEAST).text
    (wanted,) = yaml.safe_load((CHART / "Chart.yaml").read_text())["dependencies"]
    there = yaml.safe_load((CHART / "charts" / "store" / "Chart.yaml").read_text())
    assert (wanted["name"], wanted["version"]) == (there["name"], there["version"])
    assert "repository" not in wanted, "nothing is fetched"


def test_several_fleets_can_share_one_route(render: Renderer) -> None:
    first = {"enabled": True, "parentRefs": [{"name": "public"}], "besides": ["second-specfleet"]}
    route = render({**LEAST, "gateway": first}).of("HTTPRoute")
    names = [each["name"] for each in route["spec"]["rules"][0]["backendRefs"]]
    assert names == ["fleet-specfleet", "second-specfleet"]
    second = render({**LEAST, "gateway": {"enabled": True, "route": False}})
    assert not second.all("HTTPRoute")
    assert second.of("BackendTLSPolicy"), "whoever has the route reaches it by TLS"


def test_logs_and_traces_are_those_of_every_process(render: Renderer) -> None:
    tracing = {"endpoint": "http://collector.monitoring.svc:4317", "share": 0.5}
    drafters = {"a": STAND, "b": {**STAND, "autoscaling": {"min": 1, "max": 2}}}
    rendered = render({**LEAST, "drafters": drafters, "monitoring": MONITORED, "tracing": tracing, "logs": "text"})
    wanted = {
        "SPECFLEET_LOG": "text",
        "OTEL_EXPORTER_OTLP_ENDPOINT": tracing["endpoint"],
        "OTEL_TRACES_SAMPLER_ARG": "0.5",
    }
    for owner, container, _ in rendered.containers():
        if container["name"] != "valkey":
            given = {each["name"]: each.get("value") for each in container["env"]}
            assert wanted.items() <= given.items(), owner
    closed = rendered.of("NetworkPolicy", "-closed")["spec"]["egress"]
    assert closed[-1]["ports"] == [{"protocol": "TCP", "port": 4317}]


def test_the_drafter_of_modes_with_one_comes_first(render: Renderer) -> None:
    drafters = {name: {"kind": "recycling"} for name in ("a", "b", "c")}
    assert list(check(render({**LEAST, "drafters": drafters})).drafters) == ["a", "b", "c"]
    chosen = render({**LEAST, "drafters": drafters, "router": {"firstDrafter": "b"}})
    assert list(check(chosen).drafters) == ["b", "a", "c"]


def test_a_worker_pod_is_made_anew_for_what_it_reads_alone(render: Renderer) -> None:
    before = sums(render, {"a": {"kind": "recycling"}})
    after = sums(render, {"a": {"kind": "recycling"}, "b": {"kind": "trigram"}})
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
        ({"store": {"enabled": False}}, "store.url is empty and store.enabled is false"),
        ({"store": {"url": "redis://a:1/0"}}, 'store.url is "redis://a:1/0" and store.enabled is true; a fl'),
        ({"store": {"own": {"size": "1Gi"}}}, "at '/store': additional properties 'own' not allowed"),
        ({"ray": {"faultTolerant": True}, "store": ELSEWHERE}, "ray.faultTolerant is true and store.enabled is false"),
        ({"store": {"caSecret": {"name": "ca"}}}, "store.url does not use TLS"),
        ({"engine": {"tensor_parallel": 4}, "verifier": {"gpus": 2}}, "gpus is 2 and engine.tensor_parallel is 4"),
        ({"drafters": {"a": {"kind": "model"}}}, "drafters.a is of kind model and has no engine.model"),
        ({"drafters": {"a": {**STAND, "engine": {"model": "m"}}}}, "drafters.a is of kind stand and engine is given"),
        ({"drafters": {"verifier": {"kind": "stand"}}}, "drafters has the name verifier"),
        ({"drafters": {"store": {"kind": "stand"}}}, "drafters has the name store, which is that of another part"),
        ({"drafters": {"a": {**STAND, "autoscaling": {"min": 3, "max": 2}}}}, "has min 3 and max 2"),
        ({"drafters": {"a": {**STAND, "autoscaling": {"min": 1, "max": 2}}}}, "monitoring.prometheusUrl is empty"),
        ({"router": {"autoscaling": {**GROWS, "min": 6}}}, "router.autoscaling has min 6 and max 5"),
        ({"router": {"autoscaling": GROWS}}, "router.autoscaling is given and monitoring.prometheusUrl is empty"),
        ({"router": {"autoscaling": {"min": 0}}}, "at '/router/autoscaling/min': minimum: got 0, want 1"),
        ({"router": {"autoscaling": {"by": "cpu"}}}, "at '/router/autoscaling/by': value must be one of 'keda', 'hpa'"),
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
        ({"drafters": {"a_b": {"kind": "stand"}}}, "'a_b' does not match pattern '^[a-z0-9]("),
        ({"drafters": {"A": {"kind": "stand"}}}, "at '/drafters': additional properties 'A' not allowed"),
        ({"verifier": {"resources": {"requests": {"memory": "16Gi"}}}}, "verifier.resources has requests of 16Gi mem"),
        ({"drafters": {"a": {**STAND, "resources": {"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}}}}, "of 2 cpu"),
        ({"verifier": {"resources": {"requests": {"cpu": "lots"}}}}, "at '/verifier/resources/requests/cpu': 'lots'"),
        ({"store": {"url": "http://store:6379"}}, "at '/store/url': 'http://store:6379' does not match"),
        ({"monitoring": {"prometheusUrl": "prometheus:9090"}}, "at '/monitoring/prometheusUrl': 'prometheus:9090'"),
        ({"store": {"config": {"journal": "maybe"}}}, "at '/store/config/journal'"),
        ({"store": {"config": {"password_file": "/etc/passwd"}}}, "at '/store/config/password_file'"),
        ({"security": {"certificates": {"duration": "3 months"}}}, "at '/security/certificates/duration'"),
        ({"security": {"certificates": {"duration": "24h"}}}, "duration is 24h and renewBefore is 720h; renewBefore"),
        ({"tracing": {"endpoint": "http://collector"}}, "at '/tracing/endpoint': 'http://collector' does not match"),
        ({"monitoring": {"objectives": {"timePerOutputTokenSeconds": 1}}}, "timePerOutputTokenSeconds': exclusiveMax"),
        ({"monitoring": {"objectives": {"timeToFirstTokenSeconds": 100}}}, "timeToFirstTokenSeconds': exclusiveMax"),
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


@pytest.mark.parametrize("file", ["values.yaml", "charts/store/values.yaml"])
def test_every_value_is_explained(file: str) -> None:
    """By a comment behind it or above it, or behind a key that it is a part of, if that is no whole section."""
    lines = (CHART / file).read_text().splitlines()
    bare: list[str] = []
    above: list[
        tuple[int, bool]
    ] = []  # keys that the line is a part of: how far in, and whether something stands behind
    for before, line in pairwise(["", *lines]):
        if key := re.match(r"^( *)\w+:", line):
            depth = len(key[1])
            above = [(at, is_told) for at, is_told in above if at < depth]
            is_section = depth == 0 and line.endswith(":")
            if not (
                is_section or "#" in line or before.lstrip().startswith("#") or any(told for at, told in above if at)
            ):
                bare.append(line)
            above.append((depth, "#" in line))
    assert not bare


def test_notes_tell_the_next_command(render: Renderer) -> None:
    values = ["--set", "engine.model=m,security.apiKeysSecret.name=k,store.passwordSecret.name=p"]
    said = render.run("install", "fleet", str(CHART), "--dry-run=client", "--namespace", "ns", *values)
    notes = said.partition("NOTES:")[2]
    assert "kubectl -n ns port-forward service/fleet-specfleet 8000:8000" in notes
    assert "https://localhost:8000/v1/models" in notes
    assert "2 router(s)" in notes
    assert "networkPolicy" not in notes


def test_notes_say_what_more_routers_do_not_and_who_is_not_let_in(render: Renderer) -> None:
    values = "engine.model=m,security.apiKeysSecret.name=k,store.passwordSecret.name=p,router.autoscaling.enabled=true"
    values += ",service.type=LoadBalancer"
    said = render.run(
        "install", "fleet", str(CHART), "--dry-run=client", "--set", f"{values},router.autoscaling.by=hpa"
    )
    assert "2 to 5 router(s)" in said
    assert "They do not serve" in said
    assert "networkPolicy.clients lets in the pods of the namespace default alone" in said
