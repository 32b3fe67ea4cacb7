"""What GPUs a group needs, and what is said about them: on GPUs that are made up, for none is here."""

from __future__ import annotations

import pytest

from contracts.errors import TopologyError
from engine.devices import Gpu, describe_gpus


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
