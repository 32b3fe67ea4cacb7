"""Linear layers whose weights are kept in one byte each: half the bytes of bfloat16, and another model.

Rounding weights changes every logit a little, and so the target: a fleet whose verifier quantises answers as the
quantised model would, not as the checkpoint does. Nothing here is used unless somebody asks for it by name.

An output's weights share one factor, its largest divided by the largest of the type; they are multiplied as numbers of
x's type, and the finished sum by the factor. So a row's result does not depend on other rows, as in linear.py.
"""

from __future__ import annotations

import torch

from kernels import gpu
from kernels.linear import linear_reference

__all__ = ["QUANTISED_DTYPES", "QuantisedLinear", "quantised_reference"]

QUANTISED_DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
_LARGEST = {"int8": 127.0, "fp8": torch.finfo(torch.float8_e4m3fn).max}


class QuantisedLinear:
    """One weight matrix of `outputs` x `inner`, rounded to int8 or fp8 (e4m3).

    The largest weight of an output is exact, the others are rounded to multiples of a 127th of it:

    >>> layer = QuantisedLinear(torch.tensor([[1.0, 0.5]]), "int8")
    >>> layer(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor([[1.0000],
            [0.5039]])
    """

    def __init__(
        self,
        weight: torch.Tensor,  # [outputs, inner] float32 or bfloat16
        kind: str,
        bias: torch.Tensor | None = None,  # [outputs]
    ) -> None:
        if kind not in QUANTISED_DTYPES:
            raise ValueError(f"weights can be quantised to {' or '.join(QUANTISED_DTYPES)}, not to {kind!r}")
        if weight.dim() != 2 or weight.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(
                f"weight must be [outputs, inner] of float32 or bfloat16, got {weight.dtype} {tuple(weight.shape)}"
            )
        self.outputs, self.inner = weight.shape
        self.dtype = weight.dtype
        self.bias = None if bias is None else bias.float()
        largest = weight.float().abs().amax(dim=1)
        self.scales = torch.where(largest > 0, largest / _LARGEST[kind], 1.0)
        scaled = weight.float() / self.scales[:, None]
        self.weight = (scaled.round() if kind == "int8" else scaled).to(QUANTISED_DTYPES[kind])

    @property
    def num_bytes(self) -> int:
        """Bytes of weights that one pass reads."""
        return self.weight.numel() + self.scales.numel() * self.scales.element_size()

    def __call__(
        self,
        x: torch.Tensor,  # [rows, inner]
    ) -> torch.Tensor:
        """x W^T + b as float32 [rows, outputs], with W as it was rounded."""
        if x.dim() != 2 or x.shape[1] != self.inner or x.dtype != self.dtype:
            raise ValueError(f"expected {self.dtype} rows of {self.inner}, got {x.dtype} {tuple(x.shape)}")
        if gpu.runs(x):
            from kernels.gpu.quantised import quantised_linear

            return quantised_linear(x.contiguous(), self.weight, self.scales, self.bias)
        return quantised_reference(x, self.weight, self.scales, self.bias)


def quantised_reference(
    x: torch.Tensor,  # [rows, inner]
    weight: torch.Tensor,  # [outputs, inner] int8 or float8_e4m3fn
    scales: torch.Tensor,  # [outputs] float32
    bias: torch.Tensor | None = None,  # [outputs] float32
) -> torch.Tensor:
    """The plain meaning, float32 [rows, outputs]."""
    y = linear_reference(x.float(), weight.float()) * scales
    return y if bias is None else y + bias
