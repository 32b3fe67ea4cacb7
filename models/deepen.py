"""From a shallow network to a deeper one that computes the same, to train on from there.

Most of what a small model learns first (tokens, short phrases, the shapes of answers) needs little depth, and a step of
a network of two layers costs half that of one of five. So the target learns shallow first and deepens later, as in
progressive stacking (Gong et al., 2019). Every new layer is a copy of the one below it whose two output projections are
zero: it adds nothing to the residual stream until training makes it, so that the loss does not jump.
"""

from dataclasses import replace

import torch
from torch import Tensor

from contracts.errors import InvalidArgument
from models.network import Network, Shape

_OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def shallow_shape(shape: Shape, num_layers: int) -> Shape:
    if not 1 <= num_layers <= shape.num_layers:
        raise InvalidArgument(
            f"a network of {shape.num_layers} layers cannot begin with {num_layers}; right is 1 to {shape.num_layers}"
        )
    return replace(shape, num_layers=num_layers)


def deepen(network: Network, shallow: dict[str, Tensor], num_shallow: int) -> None:
    """Loads the parameters of a network of `num_shallow` layers into a deeper one of the same sizes."""
    num_layers = network.shape.num_layers
    source_of = [layer * num_shallow // num_layers for layer in range(num_layers)]
    state: dict[str, Tensor] = {name: tensor for name, tensor in shallow.items() if not name.startswith("layers.")}
    for layer, source in enumerate(source_of):
        is_new = layer > 0 and source_of[layer - 1] == source
        for name, tensor in shallow.items():
            if name.startswith(f"layers.{source}."):
                part = name.split(".", 2)[2]
                state[f"layers.{layer}.{part}"] = torch.zeros_like(tensor) if is_new and part in _OUTPUTS else tensor
    network.load_state_dict(state)
