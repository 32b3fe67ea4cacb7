"""Drafters in the target's process: where they are, what they have, and what they cannot have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from contracts.config.fleet import MOST_GUESTS
from tests.helm.chart import LEAST, Refused, Renderer
from tests.helm.release import STAND, check, nodes, placed, started, sums

GUEST = {"kind": "model", "engine": {"model": "/models/guest"}, "withTarget": True}


@pytest.mark.parametrize("on_ray", [True, False])
def test_drafters_of_the_targets_process_have_no_pods_and_a_part_of_its_gpu(render: Renderer, *, on_ray: bool) -> None:
    shares = {"g1": 0.1, "g2": 0.2, "g3": 0.0}
    guests = {name: {**GUEST, "gpuShare": share} for name, share in shares.items()}
    fleet = {**LEAST, "verifier": {"gpus": 1}, "drafters": {**guests, "d": STAND}}
    rendered = render({**fleet, "ray": {"enabled": on_ray}})
    config = check(rendered)
    assert {name: of.num_gpus for name, of in config.drafters.items() if of.with_target} == shares
    assert config.verifier.num_gpus == 0.7, "what they leave, exactly"
    devices = [of.engine.device for of in config.drafters.values() if of.engine is not None]
    assert devices == ["cuda", "cuda", "cpu"]
    if on_ray:
        assert placed(rendered) == {"verifier": "verifier", "d": "d"}
        amounts = {node.name: node.amounts for node in nodes(rendered)}
        assert amounts["verifier"] == {"CPU": 1.0 + len(guests), "GPU": 1.0}
    else:
        assert started(rendered) == ["d"]
    owners = {name.rpartition("-")[2].rpartition(" ")[2] for name, _ in rendered.pods()}
    assert {"verifier", "d"} <= owners
    assert not owners & guests.keys()


def test_the_verifiers_pod_is_made_anew_for_its_guests(render: Renderer) -> None:
    without = {"a": {"kind": "recycling"}}
    before, guest, other = (
        sums(render, {**without, **more}) for more in ({}, {"g": GUEST}, {"g": {**GUEST, "capacity": 8}})
    )
    for old, new in ((before, guest), (guest, other)):
        changed = {name for name, value in old.items() if new[name] != value}
        assert changed == {"Deployment fleet-specfleet-router", "StatefulSet fleet-specfleet-verifier"}


@pytest.mark.parametrize(
    ("drafter", "rest", "said"),
    [
        ({"kind": "stand", "engine": None}, {}, "kind is stand; only kind model gains by it"),
        ({"autoscaling": {"min": 1, "max": 2, "by": "hpa"}}, {}, "autoscaling is given; there is one process"),
        ({"replicas": 0}, {}, "replicas is 0; it must be 1"),
        ({"gpus": 1}, {}, "gpus is 1; its GPU is the target's, and gpuShare its part of it"),
        ({"nodeSelector": {"a": "b"}}, {}, "nodeSelector is given; it has no pod of its own, and verifier.nodeS"),
        ({"sharedMemory": "2Gi"}, {}, "sharedMemory is given; it has no pod of its own, and verifier.shared"),
        ({"engine": {"model": "m", "tensor_parallel": 2}}, {}, "drafters.a.engine.tensor_parallel is 2; it must be 1"),
        ({}, {"engine": {"model": "m", "tensor_parallel": 2}}, "true and engine.tensor_parallel is 2; it must be 1"),
        ({"withTarget": False, "gpuShare": 0.5}, {}, "drafters.a.gpuShare is 0.5 and withTarget is not true"),
        ({"gpuShare": 0.5}, {"verifier": {"gpus": 0}}, "drafters.a.gpuShare is 0.5 and verifier.gpus is 0"),
        ({"engine": {"model": "m", "device": "cuda"}}, {}, "drafters.a.gpuShare is 0 and engine.device is cuda"),
        ({"gpuShare": 0.5}, {"others": {"b": {**GUEST, "gpuShare": 0.5}}}, "of the drafters a, b is 0.5, 0.5;"),
        ({}, {"others": {f"b{n}": GUEST for n in range(MOST_GUESTS)}}, "9 drafters have withTarget; at most 8 may"),
        ({"gpuShare": 1}, {}, "at '/drafters/a/gpuShare': exclusiveMaximum: got 1, want 1"),
        ({"gpuShare": 0.12345}, {}, "at '/drafters/a/gpuShare': multipleOf: got 0.12345, want 0.0001"),
    ],
)  # fmt: skip
def test_what_a_drafter_of_the_targets_process_cannot_have_is_refused(
    render: Renderer, drafter: Mapping[str, Any], rest: Mapping[str, Any], said: str
) -> None:
    values = {**LEAST, "verifier": {"gpus": 2}, **rest}
    values["drafters"] = {"a": {**GUEST, **drafter}, **values.pop("others", {})}
    with pytest.raises(Refused, match=re.escape(said)):
        render(values)
