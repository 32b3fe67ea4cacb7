"""What is to be known of a rendered release: the fleet of it, and what is started where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.plan import Node, misfits, placements
from contracts.config import FleetConfig, load_config
from contracts.config.names import entry_of
from tests.helm.chart import LEAST, Rendered, Renderer
from tests.helm.schemas import fault, pod_fault

__all__ = ["STAND", "check", "nodes", "placed", "started", "sums"]

STAND = {"kind": "stand"}
_NO_DEADLINE_S = 2**31 - 1  # which is how Kubernetes has it


def check(rendered: Rendered) -> FleetConfig:
    """What holds for every release; the fleet that its processes read."""
    faults = [fault(manifest) for manifest in rendered.manifests]
    faults += [pod_fault(template) for _, template in rendered.pods()]
    assert not any(faults), "\n".join(filter(None, faults))
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in rendered.manifests]
    assert len(names) == len(set(names)), "two objects of one kind and name"
    for of in rendered.all("Deployment"):
        assert of["spec"]["progressDeadlineSeconds"] == _NO_DEADLINE_S, "who stands by, or waits, has not failed"
    return load_config(rendered.fleet_file)


def nodes(rendered: Rendered) -> list[Node]:
    """The nodes of Ray's on which something is placed, as the cluster has them once all pods run."""
    made = []
    for cluster in rendered.all("RayCluster"):
        for group in cluster["spec"]["workerGroupSpecs"]:
            of = group["rayStartParams"]
            amounts = {"CPU": float(of["num-cpus"]), "GPU": float(of["num-gpus"])}
            name = group["groupName"]
            made += [Node(name=name, amounts=amounts, labels=group["labels"]) for _ in range(group["replicas"])]
    return made


def placed(rendered: Rendered) -> dict[str, str]:
    """By the supervisor, by name: each that has a place of its own, with the group of nodes that it can be on."""
    config = load_config(rendered.fleet_file)
    where = {}
    for placement in placements(config, has_gpus=False, is_local=False):
        if placement.is_guest:
            continue
        (group,) = {node.name for node in nodes(rendered) if not misfits([placement], [node])}
        where[placement.name] = group
    assert not misfits(placements(config, has_gpus=False, is_local=False), nodes(rendered))
    return where


def started(rendered: Rendered) -> list[str]:
    """The names of all drafters that pods of their own start as, those that scaling may add included."""
    names = []
    for manifest in rendered.all("StatefulSet"):
        for container in manifest["spec"]["template"]["spec"]["containers"]:
            given: dict[str, str] = dict(word.removeprefix("--").split("=", 1) for word in container.get("args", []))
            if container["name"] == "drafter":
                scaled = [
                    each["spec"]["maxReplicaCount"]
                    for each in rendered.all("ScaledObject")
                    if each["spec"]["scaleTargetRef"]["name"] == manifest["metadata"]["name"]
                ]
                ordinals = range(scaled[0] if scaled else manifest["spec"]["replicas"])
                alias = given.get("as", given["name"])
                assert alias != given["name"] or len(ordinals) == 1
                assert entry_of(alias.replace("$(POD_INDEX)", "0"), {given["name"]}) == given["name"]
                names += [alias.replace("$(POD_INDEX)", str(ordinal)) for ordinal in ordinals]
    return names


def sums(render: Renderer, drafters: Mapping[str, Any]) -> dict[str, str]:
    """Without Ray, by pod: what changes when it is to be made anew."""
    pods = render({**LEAST, "ray": {"enabled": False}, "drafters": drafters}).pods()
    return {name: pod["metadata"].get("annotations", {}).get("checksum/fleet", "") for name, pod in pods}
