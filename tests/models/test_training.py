"""The parts of training: orthogonalised updates, the schedule, and a loss that falls."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contracts.errors import InvalidArgument
from models.network import Network, causal_attention
from models.optimiser import learning_rate_factor, make_optimisers, orthogonalise
from models.train import TextTraining, weighted_loss
from tests.models.tiny_family import TINY_SHAPE, TINY_TRAINING, lively_network, tiny_recipe


@pytest.mark.parametrize("size", [(3, 32, 32), (2, 16, 64), (1, 64, 16)])
def test_singular_values_become_nearly_one(size: tuple[int, int, int]) -> None:
    random = torch.randn(size, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(random, full_matrices=False)
    spread = torch.linspace(0.05, 1, values.shape[-1])
    found = orthogonalise(left @ torch.diag_embed(spread.expand_as(values)) @ right)
    assert torch.linalg.svdvals(found).min() > 0.5
    assert torch.linalg.svdvals(found).max() < 1.3
    # The directions stay: what is left is the same rotation with other lengths.
    middle = left.transpose(-1, -2) @ found @ right.transpose(-1, -2)
    assert (middle - torch.diag_embed(middle.diagonal(dim1=-2, dim2=-1))).abs().max() < 0.05


def test_every_parameter_has_one_optimiser() -> None:
    network = Network(TINY_SHAPE)
    held = [
        p
        for optimiser in make_optimisers(network, lr=1.0, weight_decay=0.0)
        for g in optimiser.param_groups
        for p in g["params"]
    ]
    assert {id(p) for p in held} == {id(p) for p in network.parameters()}
    assert len(held) == len(list(network.parameters()))


def test_schedule_rises_stays_and_falls() -> None:
    def factor(step: int) -> float:
        return learning_rate_factor(step, num_warmup=10, decay_start=100, num_decay=50)

    assert [factor(step) for step in (0, 4, 9, 50, 100)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0])
    assert factor(125) == pytest.approx(0.5)
    assert factor(150) == 0.0
    assert learning_rate_factor(10**6, num_warmup=10, decay_start=None, num_decay=0) == 1.0


@pytest.mark.parametrize("time", [1, 127, 128, 300])
def test_blocked_attention_is_causal_attention(time: int) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, heads, time, 16, generator=generator) for heads in (4, 2, 2))
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), is_causal=True
    )
    assert torch.allclose(causal_attention(q, k, v), expected, atol=1e-5)


def test_loss_counts_by_weight() -> None:
    network = lively_network(1)
    tokens, targets = torch.randint(5, 100, (2, 3, 8), generator=torch.Generator().manual_seed(2))
    weights = torch.zeros(3, 8)
    weights[1, 2:5] = 0.5
    with torch.no_grad():
        logits = network.logits(tokens)[1, 2:5]
        expected = torch.nn.functional.cross_entropy(logits, targets[1, 2:5])
        assert weighted_loss(network, tokens, targets, weights) == pytest.approx(expected.item(), rel=1e-5)


def test_training_lowers_the_loss(corpus: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(corpus, tmp_path)
    recipe.prepare()
    loop = recipe.target_loop(tmp_path / "target")
    before = loop.validate()
    for _ in range(18):
        loop.train_step()
    after = loop.validate()
    fallen = {domain: before[domain] - after[domain] for domain in before}
    assert min(fallen.values()) > 0.3, fallen


def test_rows_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    settings = replace(TINY_TRAINING, rows=5)
    with pytest.raises(InvalidArgument, match="5 rows, 2 at a time"):
        TextTraining(
            Network(TINY_SHAPE), settings, {"sql": 1.0}, tokens=tmp_path, run=tmp_path, log=print, compiled=False
        )
