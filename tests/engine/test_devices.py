"""What GPUs a group needs, and what is said about them: on GPUs that are made up, for none is here."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from contracts.config import EngineConfig, MachineFacts, ModelFacts, resolve_engine
from contracts.errors import ConfigError, RankLost, TopologyError
from engine.devices import Gpu, check_links, describe_gpus, flashinfer_for
from engine.ranks import DistributedRanks, SingleRank


def gpu(*peers: int) -> Gpu:
    return Gpu(name="H100", memory_bytes=80 * 2**30, peers=peers)


def test_a_group_says_which_links_go_through_the_host() -> None:
    linked = [gpu(1), gpu(0)]
    assert describe_gpus(linked, 2) == "group on 0: H100 80 GiB, 1: H100 80 GiB; all linked directly"
    assert describe_gpus([gpu(1), gpu(0), gpu()], 3).endswith("through the host: 0 and 2, 1 and 2")


def test_one_rank_takes_the_first() -> None:
    assert describe_gpus([gpu(1), gpu(0)], 1) == "runs alone on 0: H100 80 GiB"


@pytest.mark.parametrize("seen", [[], [gpu()]])
def test_a_group_without_a_gpu_for_each_rank_is_refused(seen: list[Gpu]) -> None:
    message = rf"tensor_parallel is 2, which needs as many GPUs .* sees {len(seen)} \({'H100' if seen else 'none'}\)"
    with pytest.raises(TopologyError, match=message):
        describe_gpus(seen, 2)


class Answering(SingleRank):
    """Rank 0 of two, who hears what is given."""

    size = 2

    def __init__(self, answers: list[int] | list[torch.Tensor] | RankLost) -> None:
        self._answers = answers

    def gather(self, mine: torch.Tensor) -> list[torch.Tensor]:
        if isinstance(self._answers, RankLost):
            raise self._answers
        return [torch.as_tensor(answer) for answer in self._answers]


def test_gpus_that_do_not_reach_each_other_are_refused_at_the_start() -> None:
    check_links(Answering([0, 1]), "cpu", deadline_s=60.0)
    with pytest.raises(TopologyError, match=r"answer as ranks \[0, 0\], they must be 0 to 1 in order"):
        check_links(Answering([0, 0]), "cpu", deadline_s=60.0)
    lost = RankLost("rank 0 lost touch with its group of 2", rank=None, waited_s=1.0)
    with pytest.raises(TopologyError, match=r"2 GPUs of this group cannot reach each other: rank 0 lost .*NCCL_DEBUG"):
        check_links(Answering(lost), "cpu", deadline_s=60.0)
    never_came = torch.empty(1, device="meta")  # has no number to read, as after a link that failed
    with pytest.raises(TopologyError, match=r"cannot reach each other: .*meta tensors.*NCCL_DEBUG"):
        check_links(Answering([never_came, never_came]), "cpu", deadline_s=60.0)


class Silent(SingleRank):
    """Rank 0 of two, whose exchange does not end before it is let."""

    size = 2

    def __init__(self) -> None:
        self.is_let = threading.Event()

    def gather(self, mine: torch.Tensor) -> list[torch.Tensor]:
        self.is_let.wait()
        return [mine, mine]


def test_an_exchange_that_never_ends_is_refused_with_what_to_look_at() -> None:
    ranks = Silent()
    with pytest.raises(
        TopologyError, match=r"between the 2 GPUs of this group has not ended after 0\.05 s: .*NCCL_DEBUG.* topo -m"
    ):
        check_links(ranks, "cpu", deadline_s=0.05)
    ranks.is_let.set()


@pytest.mark.skipif(torch.distributed.is_nccl_available(), reason="this torch has NCCL")
def test_a_group_on_gpus_needs_a_torch_with_nccl(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"tensor_parallel is 1, but this torch .* was built without NCCL"):
        DistributedRanks(address=f"file://{tmp_path / 'meet'}", rank=0, size=1, deadline_s=5.0, device="cuda")


def test_flashinfer_is_refused_where_it_could_not_be_used() -> None:
    machine = MachineFacts(
        num_cpus=2, memory_bytes=2**36, has_cuda=True, cuda_memory_bytes=2**36, cuda_free_bytes=2**36
    )

    def found(head_dim: int = 128, **said: Any) -> None:
        config = EngineConfig(model="m", deterministic=False, **said)
        flashinfer_for(resolve_engine(config, machine, ModelFacts(max_context=64, weight_bytes=2**30)), head_dim)

    with pytest.raises(
        ConfigError, match=r"deterministic is false and engine\.device is cpu, not cuda; it must be true"
    ):
        found(device="cpu")
    with pytest.raises(ConfigError, match="heads of 64, 128, 256, not in bfloat16 with heads of 80; it must be true"):
        found(80)
    with pytest.raises(ConfigError, match="not in float32 with heads of 128"):
        found(dtype="float32")
    if importlib.util.find_spec("flashinfer") is None:
        with pytest.raises(
            ConfigError, match="FlashInfer is not installed; install flashinfer-python, or let it be true"
        ):
            found()
