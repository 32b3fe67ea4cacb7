"""Kernels in Triton's interpreter, with bfloat16 as a GPU has it, and quicker.

The interpreter multiplies matrices of bfloat16 as if their bits were whole numbers, cuts numbers off that a GPU rounds
to the nearest, and leaves the order of a product's sums to BLAS, which takes another for other places in a tile; a
matrix instruction does none of these. And it looks through the whole language whenever a kernel calls a function of its
own, and checks every sum of whole numbers for overflow.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from kernels import gpu

Array = np.ndarray[Any, np.dtype[Any]]

_prepared: set[str] = set()


@contextlib.contextmanager
def interpreter() -> Iterator[None]:
    """Operations inside run in their GPU form, on CPU tensors."""
    pytest.importorskip("triton", reason="no Triton for this machine, and so no GPU form to test")
    from triton.runtime import interpreter as theirs

    def create_dot(_builder: Any, a: Any, b: Any, d: Any, _precision: Any, _imprecise: Any) -> Any:
        left, right = _floats(a), np.ascontiguousarray(_floats(b).T)
        with np.errstate(invalid="ignore"):  # infinities and zeros make NaN, as they should
            return theirs.TensorHandle((left[:, None, :] * right[None]).sum(-1) + d.data, d.dtype.scalar)

    cast = theirs.InterpreterBuilder.cast_impl

    def cast_to_nearest(self: Any, source: Any, target: Any) -> Any:
        if (str(source.dtype.scalar), str(target.scalar)) != ("fp32", "bf16"):
            return cast(self, source, target)
        rounded = torch.from_numpy(np.array(source.data)).bfloat16().view(torch.int16).numpy()
        return theirs.TensorHandle(rounded.view(np.uint16), target.scalar)

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        module = function.fn.__module__
        if module.startswith("triton.") and module not in _prepared:
            theirs._patch_lang(function.fn)
            _prepared.add(module)
        return function.rewrite()(*args, **kwargs)

    builder = theirs.interpreter_builder
    with pytest.MonkeyPatch.context() as patch, gpu.interpreted():
        patch.setattr(theirs.InterpreterBuilder, "create_dot", create_dot)
        patch.setattr(theirs.InterpreterBuilder, "cast_impl", cast_to_nearest)
        patch.setattr(theirs.InterpretedFunction, "__call__", call)
        patch.setattr(builder, "options", dataclasses.replace(builder.options, sanitize_overflow=False))
        yield


def _floats(handle: Any) -> Array:
    """A tile of float32 or bfloat16 as float32 [rows, columns]."""
    if handle.data.dtype == np.float32:
        return np.asarray(handle.data)
    assert str(handle.dtype.scalar) == "bf16", f"no product of {handle.dtype} here"
    return np.asarray((handle.data.astype(np.uint32) << 16).view(np.float32))
