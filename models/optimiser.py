"""Muon for the matrices, AdamW for embedding and norms, and a schedule that can be extended and then decayed at
will."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.precision import product_dtype

# Quintic iteration that drives all singular values of a matrix towards 1; steep at 0, so five steps do for a noisy
# direction.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, num_iterations: int = 5) -> Tensor:  # [count, rows, columns] -> the same
    """Replaces the singular values of each matrix by values near 1, by matrix products only."""
    a, b, c = QUINTIC
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.transpose(-1, -2)
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    x = x.to(product_dtype(x.device)).contiguous()
    for _ in range(num_iterations):
        gram = x @ x.transpose(-1, -2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    full: Tensor = x.float()
    return full if wide else full.transpose(-1, -2)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised. Updates are scaled to the usual size of AdamW's, so that one learning rate serves
    both."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step_group(parameters, group)

    def _step_group(self, parameters: list[nn.Parameter], group: dict[str, float]) -> None:
        directions = []
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None, "step() passes only parameters with a gradient"
            momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
            momentum.lerp_(gradient, 1 - group["momentum"])
            directions.append(torch.lerp(gradient, momentum, group["momentum"]))
        rows, columns = parameters[0].shape
        size = 0.2 * max(rows, columns) ** 0.5
        for parameter, update in zip(parameters, orthogonalise(torch.stack(directions)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * size)


def make_optimisers(network: nn.Module, *, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in network.named_parameters() if p.dim() == 2 and "embed" not in name]
    embeddings = [p for name, p in network.named_parameters() if "embed" in name]
    vectors = [p for p in network.parameters() if p.dim() == 1]
    return [
        Muon(matrices, lr=lr, weight_decay=weight_decay),
        torch.optim.AdamW(
            [{"params": embeddings, "weight_decay": 0.0}, {"params": vectors, "weight_decay": 0.0}],
            lr=lr,
            betas=(0.9, 0.97),
            eps=1e-10,
        ),
    ]


def learning_rate_factor(step: int, *, num_warmup: int, decay_start: int | None, num_decay: int) -> float:
    """Trapezoid: up, level for as long as one likes, and linearly to zero over `num_decay` steps from `decay_start`."""
    factor = min(1.0, (step + 1) / max(1, num_warmup))
    if decay_start is not None:
        factor *= min(1.0, max(0.0, 1.0 - (step - decay_start) / max(1, num_decay)))
    return factor
