"""Linear layers whose weights are kept in one byte each: half the bytes of bfloat16, and another model.

Rounding weights changes every logit a little, and so the target: a fleet whose verifier quantises answers as the
quantised model would, not as the checkpoint does. Nothing here is used unless somebody asks for it by name.

An output's weights share one factor, its largest divided by the largest of the type; they are multiplied as numbers of
x's type, which holds each of them exactly, and the finished sum by the factor. So a row's result does not depend on
other rows, as in linear.py. On a CPU the library of linear.py multiplies them, and they are held in x's type: the
answers of the rounded model, at the speed and size of the other.
"""

from __future__ import annotations

import torch

from kernels import gpu
from kernels.checks import NUMBER_TYPES, check_tensor
from kernels.linear import Linear, linear_reference

__all__ = ["QUANTISED_DTYPES", "QuantisedLinear", "quantise", "quantised_reference"]

QUANTISED_DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
_LARGEST = {"int8": 127.0, "fp8": torch.finfo(torch.float8_e4m3fn).max}


class QuantisedLinear:
    """One weight matrix of `outputs` x `inner`, rounded to int8 or fp8 (e4m3), or some `columns` of it.

    These are cut from the rounded matrix: an output's factor is that of its whole row, whoever holds which part.

    The largest weight of an output is exact, the others are rounded to multiples of a 127th of it:

    >>> layer = QuantisedLinear(torch.tensor([[1.0, 0.5]]), "int8")
    >>> layer(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor([[1.0000],
            [0.5039]])
    """

    packed: torch.Tensor | None = None
    """Never: whoever multiplies by packed weights alone, as the compiled step does, would forget the factors."""

    def __init__(
        self,
        weight: torch.Tensor,  # [outputs, inner] float32 or bfloat16
        kind: str,
        bias: torch.Tensor | None = None,  # [outputs]
        *,
        columns: slice | None = None,
    ) -> None:
        rounded, self.scales = quantise(weight, kind)
        if bias is not None:
            check_tensor("bias", bias, (weight.shape[0],), *NUMBER_TYPES, lies="anyhow")
        self.dtype = weight.dtype
        self.bias = None if bias is None else bias.float().contiguous()
        if columns is not None:
            rounded = rounded[:, columns].contiguous()
        self.outputs, self.inner = rounded.shape
        self._linear: Linear | None = None
        self.weight: torch.Tensor | None = rounded
        if weight.device.type == "cpu" and not gpu.runs(weight):
            linear = Linear(rounded.to(weight.dtype))
            if linear.packed is not None:
                self._linear, self.weight = linear, None

    @property
    def num_bytes(self) -> int:
        """Bytes of weights that one pass reads."""
        held = self._linear.num_bytes if self.weight is None and self._linear is not None else self.outputs * self.inner
        return held + self.scales.numel() * self.scales.element_size()

    def __call__(
        self,
        x: torch.Tensor,  # [rows, inner]
    ) -> torch.Tensor:
        """x W^T + b as float32 [rows, outputs], with W as it was rounded."""
        check_tensor("x", x, ("rows", self.inner), self.dtype, lies="anyhow")
        if self._linear is not None:
            y = self._linear(x).mul_(self.scales)
            return y if self.bias is None else y.add_(self.bias)
        assert self.weight is not None
        if gpu.runs(x):
            from kernels.gpu.quantised import quantised_linear

            return quantised_linear(x.contiguous(), self.weight, self.scales, self.bias)
        return quantised_reference(x, self.weight, self.scales, self.bias)

    def add_to(
        self,
        x: torch.Tensor,  # [rows, inner]
        y: torch.Tensor,  # [rows, outputs] float32, changed in place
    ) -> torch.Tensor:
        """y += x W^T + b, with W as it was rounded.

        >>> y = torch.tensor([[10.0]])
        >>> QuantisedLinear(torch.tensor([[1.0, 0.5]]), "int8").add_to(torch.tensor([[2.0, 0.0]]), y)
        tensor([[12.]])
        """
        check_tensor("y", y, (x.shape[0], self.outputs), torch.float32)
        return y.add_(self(x))


def quantise(
    weight: torch.Tensor,  # [outputs, inner] float32 or bfloat16
    kind: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rounded weights [outputs, inner], and a factor for each output, float32 [outputs].

    >>> quantise(torch.tensor([[2.0, -1.0]]), "int8")
    (tensor([[127, -64]], dtype=torch.int8), tensor([0.0157]))
    """
    if kind not in QUANTISED_DTYPES:
        raise ValueError(f"weights can be quantised to {' or '.join(QUANTISED_DTYPES)}, not to {kind!r}")
    check_tensor("weight", weight, ("outputs", "inner"), *NUMBER_TYPES, lies="anyhow")
    largest = weight.float().abs().amax(dim=1)
    scales = torch.where(largest > 0, largest / _LARGEST[kind], 1.0)
    scaled = weight.float() / scales[:, None]
    return (scaled.round() if kind == "int8" else scaled).to(QUANTISED_DTYPES[kind]), scales


def quantised_reference(
    x: torch.Tensor,  # [rows, inner]
    weight: torch.Tensor,  # [outputs, inner] int8 or float8_e4m3fn
    scales: torch.Tensor,  # [outputs] float32
    bias: torch.Tensor | None = None,  # [outputs] float32
) -> torch.Tensor:
    """The plain meaning, float32 [rows, outputs]."""
    y = linear_reference(x.float(), weight.float()) * scales
    return y if bias is None else y + bias
