"""A deepened network computes what the shallow one did, and learns in all its layers."""

from dataclasses import replace

import pytest
import torch

from contracts.errors import InvalidArgument
from models.deepen import deepen, shallow_shape
from models.network import Network, initialise
from tests.models.tiny_family import TINY_SHAPE


@pytest.mark.parametrize(("num_shallow", "num_layers"), [(1, 1), (1, 4), (2, 5), (3, 5)])
def test_the_function_stays_and_every_layer_learns(num_shallow: int, num_layers: int) -> None:
    deep_shape = replace(TINY_SHAPE, num_layers=num_layers)
    shallow, deep = Network(shallow_shape(deep_shape, num_shallow)), Network(deep_shape)
    initialise(shallow, seed=1)
    deepen(deep, shallow.state_dict(), num_shallow)
    tokens = torch.arange(40).reshape(2, 20)
    assert torch.equal(deep.logits(tokens), shallow.logits(tokens))
    deep.logits(tokens).square().mean().backward()  # type: ignore[no-untyped-call]
    for layer in deep.blocks:
        gradient = layer.mlp.down_proj.weight.grad
        assert gradient is not None
        assert gradient.abs().max() > 0


def test_a_shallow_start_is_not_deeper_than_the_end() -> None:
    with pytest.raises(InvalidArgument, match="cannot begin with 3"):
        shallow_shape(replace(TINY_SHAPE, num_layers=2), 3)
