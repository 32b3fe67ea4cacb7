"""What is placed where, and what is refused before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.plan import (
    Node,
    Placement,
    drafter_placement,
    drafters_of,
    misfits,
    placements,
    with_models_found,
)
from contracts.config import DrafterConfig, FleetConfig, load_config
from contracts.errors import ConfigError, InvalidArgument

CHECKOUT = Path(__file__).resolve().parents[2]


def fleet(engine: Mapping[str, Any] | None = None, **drafters: Mapping[str, Any]) -> FleetConfig:
    return FleetConfig.model_validate({"engine": {"model": "models/target", **(engine or {})}, "drafters": drafters})


def place(name: str = "one", labels: Mapping[str, str] | None = None, **amounts: float) -> Placement:
    return Placement(name=name, amounts=amounts, labels=labels or {})


def node(name: str = "a", labels: Mapping[str, str] | None = None, **amounts: float) -> Node:
    return Node(name=name, amounts=amounts, labels=labels or {})


@pytest.mark.parametrize(
    ("engine", "has_gpus", "amounts"),
    [
        ({}, False, {"CPU": 1.0}),
        ({"num_threads": 6}, False, {"CPU": 6.0}),
        ({"num_threads": 3, "tensor_parallel": 4}, False, {"CPU": 12.0}),
        ({"tensor_parallel": 4}, True, {"CPU": 4.0, "GPU": 4.0}),
        ({"tensor_parallel": 2, "device": "cuda", "num_threads": 8}, False, {"CPU": 2.0, "GPU": 2.0}),
        ({"tensor_parallel": 2, "device": "cpu"}, True, {"CPU": 2.0}),
        ({"device": "auto"}, True, {"CPU": 1.0, "GPU": 1.0}),
    ],
)
def test_a_verifier_group_is_one_place_with_all_that_its_ranks_need(
    engine: Mapping[str, Any], has_gpus: bool, amounts: Mapping[str, float]
) -> None:
    (verifier,) = placements(fleet(engine), has_gpus=has_gpus, is_local=False)
    assert (verifier.name, verifier.amounts, verifier.labels) == ("verifier", amounts, {})


def sharing(num_gpus: float, **engine: Any) -> FleetConfig:
    return FleetConfig.model_validate({"engine": {"model": "m", **engine}, "verifier": {"num_gpus": num_gpus}})


def test_a_verifier_may_leave_part_of_its_gpu_to_a_drafter() -> None:
    (verifier,) = placements(sharing(0.75, device="cuda"), has_gpus=True, is_local=True)
    assert verifier.amounts == {"CPU": 1.0, "GPU": 0.75}
    assert misfits([verifier, place("small", CPU=1.0, GPU=0.25)], [node(CPU=4.0, GPU=1.0)]) == []
    (on_cpus,) = placements(sharing(0.75, device="cpu", tensor_parallel=2), has_gpus=True, is_local=True)
    assert on_cpus.amounts == {"CPU": 2.0}


def test_ranks_of_a_group_share_no_gpu() -> None:
    with pytest.raises(ConfigError, match=r"verifier\.num_gpus is 0\.5 and engine\.tensor_parallel is 2; .* must be 1"):
        placements(sharing(0.5, tensor_parallel=2), has_gpus=True, is_local=False)
    with pytest.raises(ValueError, match=r"num_gpus"):
        sharing(1.5)


def drafter(device: str, num_gpus: float) -> DrafterConfig:
    engine = {"model": "m", "device": device, "num_threads": 3}
    return DrafterConfig.model_validate({"kind": "model", "engine": engine, "num_gpus": num_gpus})


def test_a_drafter_that_booked_no_gpu_runs_on_a_cpu() -> None:
    """Ray hides no GPU from it, and the verifier plans with the memory of its own."""
    booked = drafter("auto", 0.0).as_booked
    assert booked == drafter("cpu", 0.0)
    for config in (drafter("auto", 0.25), drafter("cpu", 0.0), DrafterConfig(kind="recycling")):
        assert config.as_booked is config
    with pytest.raises(ConfigError, match=r"drafter small has engine\.device 'cuda' and num_gpus 0, which books no"):
        drafter_placement("small", drafter("cuda", 0.0), is_local=True)
    assert drafter_placement("small", drafter("cuda", 0.25), is_local=True).amounts == {"CPU": 1.0, "GPU": 0.25}


def test_the_verifiers_place_is_that_of_the_drafters_in_its_process_too() -> None:
    engine = {"model": "m", "device": "cuda"}
    config = FleetConfig.model_validate(
        {
            "engine": {"model": "target", "device": "cuda"},
            "verifier": {"num_gpus": 0.75, "labels": {"zone": "b"}},
            "drafters": {
                "near": {"kind": "model", "engine": engine, "with_target": True, "num_gpus": 0.25, "num_cpus": 0.5},
                "far": {"kind": "recycling"},
            },
        }
    )
    verifier, near, far = placements(config, has_gpus=True, is_local=False)
    assert (verifier.amounts, verifier.labels) == ({"CPU": 1.5, "GPU": 1.0}, {"zone": "b"})
    assert verifier.guests == {"near": {"CPU": 0.5, "GPU": 0.25}}
    assert near == Placement(name="near", amounts={}, labels={}, is_guest=True)
    assert far == place("far", CPU=1.0)


def test_parts_of_a_gpu_that_add_up_to_one_are_one() -> None:
    """Ray wants more than 1 to be whole."""
    shares = (0.06, 0.27, 0.28, 0.28)
    assert sum(shares) + 0.11 > 1.0
    guest = {"kind": "model", "engine": {"model": "m"}, "with_target": True}
    drafters = {f"g{index}": {**guest, "num_gpus": share} for index, share in enumerate(shares)}
    engine = {"model": "target", "device": "cuda"}
    config = FleetConfig.model_validate({"engine": engine, "verifier": {"num_gpus": 0.11}, "drafters": drafters})
    assert placements(config, has_gpus=True, is_local=True)[0].amounts["GPU"] == 1.0


def test_drafters_ask_for_what_their_configuration_says_and_come_after_the_verifier() -> None:
    wishes = {"kind": "recycling", "num_cpus": 0.5, "num_gpus": 0.25, "resources": {"fpga": 1}, "labels": {"zone": "b"}}
    config = fleet(fast=wishes, slow={"kind": "prompt_lookup", "num_cpus": 0})
    _, fast, slow = placements(config, has_gpus=False, is_local=False)
    assert fast == place("fast", {"zone": "b"}, CPU=0.5, GPU=0.25, fpga=1.0)
    assert slow == place("slow")


def test_one_entry_may_stand_for_many_processes_or_for_none_that_are_placed() -> None:
    config = fleet(many={"kind": "stand", "replicas": 2}, elsewhere={"kind": "stand", "replicas": 0})
    assert drafters_of(config) == {"many-0": "many", "many-1": "many"}
    assert [each.name for each in placements(config, has_gpus=False, is_local=False)] == [
        "verifier",
        "many-0",
        "many-1",
    ]


def test_the_target_asks_for_a_node_with_its_labels_where_there_are_several() -> None:
    config = FleetConfig.model_validate({"engine": {"model": "m"}, "verifier": {"labels": {"zone": "b"}}})
    assert placements(config, has_gpus=False, is_local=False)[0].labels == {"zone": "b"}
    assert placements(config, has_gpus=False, is_local=True)[0].labels == {}


def test_the_only_machine_is_the_right_one_whatever_it_is_called() -> None:
    wishes = {"kind": "recycling", "num_gpus": 0.25, "resources": {"fpga": 1}, "labels": {"zone": "b"}}
    _, fast = placements(fleet(fast=wishes), has_gpus=False, is_local=True)
    assert fast == place("fast", CPU=1.0, GPU=0.25)


def test_no_drafter_has_the_verifiers_name() -> None:
    with pytest.raises(ConfigError, match="drafters has the name 'verifier'"):
        placements(fleet(verifier={"kind": "recycling"}), has_gpus=False, is_local=True)


def test_what_no_node_has_is_named_with_what_there_is() -> None:
    nodes = [node("a", CPU=8.0), node("b", {"zone": "x"}, CPU=2.0, GPU=1.0)]
    wanted = [place("small", CPU=1.0), place("big", CPU=4.0, GPU=1.0), place("far", {"zone": "y"}, CPU=1.0)]
    have = "(a has 8 CPU; b has 2 CPU, 1 GPU, label zone=x)"
    assert misfits(wanted, nodes) == [
        f"big needs 4 CPU, 1 GPU, and no node has that {have}",
        f"far needs 1 CPU, label zone=y, and no node has that {have}",
    ]


def test_a_sum_that_all_nodes_together_have_not_is_named() -> None:
    nodes = [node("a", CPU=2.0, GPU=1.0), node("b", CPU=2.0)]
    wanted = [place(str(number), CPU=1.0, GPU=0.5) for number in range(3)]
    assert misfits(wanted, nodes) == [
        "all together need 1.5 GPU, and all nodes together have 1 (a has 2 CPU, 1 GPU; b has 2 CPU); verifier.num_gpus "
        "and a drafter's num_gpus may be fractions, of which several share a GPU"
    ]


def test_fractions_that_add_up_to_the_whole_fit() -> None:
    assert misfits([place(str(number), CPU=0.1) for number in range(10)], [node(CPU=1.0)]) == []


def test_without_nodes_nothing_fits() -> None:
    assert misfits([place(CPU=1.0)], []) == ["one needs 1 CPU, and no node has that (there is no node)"]


@given(st.lists(st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0]), max_size=4), min_size=1, max_size=4))
def test_what_was_packed_once_is_never_refused(packing: list[list[float]]) -> None:
    nodes = [node(str(index), CPU=sum(places)) for index, places in enumerate(packing)]
    assert misfits([place(CPU=amount) for places in packing for amount in places], nodes) == []


def test_models_that_are_nowhere_are_all_named_by_key_and_path() -> None:
    config = fleet(
        {"model": "models/demo/target"},
        sql={"kind": "model", "engine": {"model": "./small"}},
        code={"kind": "model", "engine": {"model": "there"}},
        lookup={"kind": "prompt_lookup"},
    )
    with pytest.raises(ConfigError) as caught:
        with_models_found(config, is_local=True, is_folder=lambda path: path == Path("there"))
    assert str(caught.value) == (
        "there is no such folder: engine.model is 'models/demo/target', drafters.sql.engine.model is './small'; "
        "a model must be a checkpoint folder or a hub id; the demo family is made by "
        "`python -m models.build --corpus DIR --out models/demo`, see models/README.md"
    )


def test_models_that_are_found_mean_the_same_everywhere() -> None:
    config = fleet({"model": "there", "num_threads": 3}, sql={"kind": "model", "engine": {"model": "Qwen/Qwen3-0.6B"}})
    found = with_models_found(config, is_local=True, is_folder=lambda path: path == Path("there"))
    assert found.engine == config.engine.model_copy(update={"model": str(Path("there").absolute())})
    assert found.drafters == config.drafters, "a hub id stays what it is"


def test_a_cluster_may_have_folders_that_this_machine_has_not() -> None:
    config = fleet({"model": "/models/target"})
    assert with_models_found(config, is_local=False, is_folder=lambda path: False) == config
    with pytest.raises(ConfigError, match=r"engine\.model is '/models/target'"):
        with_models_found(config, is_local=True, is_folder=lambda path: False)


@pytest.mark.parametrize("name", ["", "Upper", "verifier"])
def test_a_name_that_cannot_be_a_drafters_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="the drafter's name is"):
        drafter_placement(name, DrafterConfig(kind="recycling"), is_local=True)


def test_the_default_fleet_can_be_placed_on_a_small_machine() -> None:
    config = load_config(CHECKOUT / "fleet.yaml")
    wanted = placements(config, has_gpus=False, is_local=True)
    assert [of.name for of in wanted][:2] == ["verifier", "general"]
    assert sum(of.amounts["CPU"] for of in wanted) <= 8
    engines = [config.engine, *(of.engine for of in config.drafters.values() if of.engine is not None)]
    sizes = [engine.kv_cache_bytes for engine in engines]
    assert all(isinstance(size, int) for size in sizes), "a share of the memory for each would be all of it"
    assert sum(size for size in sizes if isinstance(size, int)) < 2**30
