"""Linear layers over packed weights: y = x W^T + b, with float32 results.

On CPU the weights are packed once for streaming (src/linear.h says how, and why a row's result does not depend on
how many rows there are). On a GPU they stay as torch holds them, and gpu/linear.py multiplies rows that know nothing
of each other. Without either, torch multiplies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels import gpu, native
from kernels.checks import NUMBER_TYPES, check_tensor
from kernels.native.memory import large_empty

__all__ = ["Linear", "embed_reference", "linear_reference"]

_BLOCK_OUTPUTS = 32


class Linear:
    """One weight matrix of `outputs` x `inner`, float32 or bfloat16.

    >>> layer = Linear(torch.tensor([[1.0, 2.0], [0.0, -1.0]]), bias=torch.tensor([0.5, 0.0]))
    >>> layer(torch.tensor([[3.0, 4.0]]))
    tensor([[11.5000, -4.0000]])
    """

    def __init__(
        self,
        weight: torch.Tensor,  # [outputs, inner]
        bias: torch.Tensor | None = None,  # [outputs] float32 or bfloat16
    ) -> None:
        check_tensor("weight", weight, ("outputs", "inner"), *NUMBER_TYPES, lies="anyhow")
        if bias is not None:
            check_tensor("bias", bias, (weight.shape[0],), *NUMBER_TYPES, lies="anyhow")
        self.outputs, self.inner = weight.shape
        self.dtype = weight.dtype
        self.kind = native.KINDS[weight.dtype]
        self.bias = None if bias is None else _padded(bias.float(), self.outputs)
        self.packed: torch.Tensor | None = None
        self.weight: torch.Tensor | None = None
        packs = weight.device.type == "cpu" and self._fits_packing() and not gpu.runs(weight)
        self._library = native.library() if packs else None
        if self._library is None:
            self.weight = weight.contiguous()
            return
        size = self._library.specfleet_packed_size(self.kind, self.outputs, self.inner)
        self.packed = large_empty((size,), weight.dtype)
        source = weight if weight.stride(1) == 1 else weight.contiguous()
        self._library.specfleet_pack(
            self.kind,
            native.num_threads(),
            source.data_ptr(),
            source.stride(0),
            self.outputs,
            self.inner,
            self.packed.data_ptr(),
        )

    def _fits_packing(self) -> bool:
        # A pair of bf16 inputs is read at once, so an odd inner size would read past a row's end.
        return self.dtype == torch.float32 or self.inner % 2 == 0

    @property
    def num_bytes(self) -> int:
        """Bytes of weights that one pass reads."""
        held = self.packed if self.packed is not None else self.weight
        assert held is not None
        return held.numel() * held.element_size()

    def __call__(
        self,
        x: torch.Tensor,  # [rows, inner]
    ) -> torch.Tensor:
        """x W^T + b as float32 [rows, outputs]."""
        self._check(x)
        y = torch.empty(x.shape[0], self.outputs, dtype=torch.float32, device=x.device)
        return self._run(x, y, accumulate=False)

    def add_to(
        self,
        x: torch.Tensor,  # [rows, inner]
        y: torch.Tensor,  # [rows, outputs] float32, changed in place
    ) -> torch.Tensor:
        """y += x W^T + b.

        >>> layer, y = Linear(torch.tensor([[1.0, 2.0], [0.0, -1.0]])), torch.tensor([[100.0, 10.0]])
        >>> layer.add_to(torch.tensor([[3.0, 4.0]]), y)
        tensor([[111.,   6.]])
        >>> y
        tensor([[111.,   6.]])
        """
        self._check(x)
        check_tensor("y", y, (x.shape[0], self.outputs), torch.float32)
        return self._run(x, y, accumulate=True)

    def _check(self, x: torch.Tensor) -> None:
        check_tensor("x", x, ("rows", self.inner), self.dtype, lies="anyhow")

    def _run(self, x: torch.Tensor, y: torch.Tensor, *, accumulate: bool) -> torch.Tensor:
        if self._library is None or self.packed is None:
            assert self.weight is not None
            if gpu.runs(x):
                from kernels.gpu.linear import linear

                bias = None if self.bias is None else self.bias[: self.outputs]
                return linear(x.contiguous(), self.weight, bias, y, accumulate=accumulate)
            result = linear_reference(x, self.weight, None if self.bias is None else self.bias[: self.outputs])
            return y.add_(result) if accumulate else y.copy_(result)
        x = x.contiguous()
        self._library.specfleet_linear(
            self.kind,
            native.num_threads(),
            x.data_ptr(),
            x.shape[0],
            self.inner,
            self.packed.data_ptr(),
            native.address(self.bias),
            self.outputs,
            accumulate,
            y.data_ptr(),
        )
        return y

    def embed(
        self,
        tokens: torch.Tensor,  # [rows] int64
    ) -> torch.Tensor:
        """Rows of the weight as float32 [rows, inner]: the matrix read as an embedding table.

        >>> Linear(torch.tensor([[1.0, 2.0], [0.0, -1.0]])).embed(torch.tensor([1, 1, 0]))
        tensor([[ 0., -1.],
                [ 0., -1.],
                [ 1.,  2.]])
        """
        check_tensor("tokens", tokens, ("rows",), torch.int64)
        if self._library is None or self.packed is None:
            assert self.weight is not None
            return embed_reference(tokens, self.weight)
        least, most = (int(token) for token in tokens.aminmax()) if tokens.shape[0] else (0, 0)
        if least < 0 or most >= self.outputs:
            raise ValueError(f"tokens must be 0 to {self.outputs - 1}, got {least} to {most}")
        out = torch.empty(tokens.shape[0], self.inner, dtype=torch.float32)
        self._library.specfleet_embed(
            self.kind, tokens.data_ptr(), tokens.shape[0], self.packed.data_ptr(), self.inner, out.data_ptr()
        )
        return out


def linear_reference(
    x: torch.Tensor,  # [rows, inner]
    weight: torch.Tensor,  # [outputs, inner]
    bias: torch.Tensor | None = None,  # [outputs] float32
) -> torch.Tensor:
    """The plain meaning, float32 [rows, outputs]. For bfloat16, rows are invariant as far as oneDNN's kernels are."""
    # For a row alone oneDNN takes another kernel, which adds in another order: give it company.
    lonely = x.shape[0] == 1
    y = F.linear(x.expand(2, -1).contiguous() if lonely else x, weight)[: x.shape[0]].float()
    return y if bias is None else y + bias


def embed_reference(
    tokens: torch.Tensor,  # [rows] int64
    table: torch.Tensor,  # [vocabulary, hidden]
) -> torch.Tensor:
    """Rows of the table as float32."""
    return F.embedding(tokens, table).float()


def _padded(bias: torch.Tensor, outputs: int) -> torch.Tensor:
    """The bias with zeros up to a whole number of blocks, as the library reads it."""
    return F.pad(bias, (0, -outputs % _BLOCK_OUTPUTS)).contiguous()
