"""What a public operation is given, checked before anything reads memory by it.

A kernel walks through memory by the sizes that it is told: a strided vector or a row too few is no exception there but
wrong numbers, or somebody else's memory.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Literal

import torch

__all__ = ["NUMBER_TYPES", "Lies", "check_result_type", "check_tensor", "is_trusting", "trusting"]

NUMBER_TYPES = (torch.float32, torch.bfloat16)
"""What weights, activations and caches are held in."""
Lies = Literal["whole", "in rows", "anyhow"]
"""In one piece; each row in one piece, rows anywhere; any way that torch knows."""


class _Setting(threading.local):
    is_trusting: bool = False


_setting = _Setting()


class _Trusting:
    """Every step enters it, so it is no generator."""

    __slots__ = ("before",)

    def __enter__(self) -> None:
        self.before = _setting.is_trusting
        _setting.is_trusting = True

    def __exit__(self, *error: object) -> None:
        _setting.is_trusting = self.before


def trusting() -> contextlib.AbstractContextManager[None]:
    """Operations inside do not look at what they are given: for callers whose tensors are right by how they were made.
    Looking at each of a small model's takes as long as computing it.

    >>> with trusting():
    ...     check_tensor("weight", torch.ones(3), (4,), torch.float32)
    """
    return _Trusting()


def is_trusting() -> bool:
    """Whether this thread is inside `trusting`."""
    return _setting.is_trusting


def check_tensor(
    name: str,
    x: torch.Tensor,
    shape: tuple[int | str, ...],  # a word where every size will do
    *dtypes: torch.dtype,  # any of these; none: any at all
    lies: Lies = "whole",
) -> None:
    """Refuses another shape, another type, or memory that lies otherwise, with what was found and what would be right.

    >>> check_tensor("weight", torch.ones(3), (4,), torch.float32)
    Traceback (most recent call last):
    ValueError: weight must be contiguous float32 [4], got torch.float32 (3,)
    """
    if _setting.is_trusting:
        return
    found = x.shape
    if (not dtypes or x.dtype in dtypes) and (lies == "anyhow" or x.is_contiguous() or _lies(x, lies)):
        if found == shape:
            return
        if len(found) == len(shape):
            for size, wanted in zip(found, shape):  # noqa: B905  # a step passes here hundreds of times
                if size != wanted and wanted.__class__ is not str:
                    break
            else:
                return
    words = ["contiguous"] if lies == "whole" else []
    words += [" or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)] if dtypes else []
    words += [f"[{', '.join(map(str, shape))}]"]
    words += ["with contiguous rows"] if lies == "in rows" else []
    strides = "" if x.is_contiguous() else f" with strides {x.stride()}"
    raise ValueError(f"{name} must be {' '.join(words)}, got {x.dtype} {tuple(found)}{strides}")


def _lies(x: torch.Tensor, lies: Lies) -> bool:
    return lies == "in rows" and x.stride(-1) == 1


def check_result_type(dtype: torch.dtype) -> None:
    """Refuses what no kernel rounds its result to."""
    if dtype not in NUMBER_TYPES:
        raise ValueError(f"a result is rounded to float32 or bfloat16, not to {dtype}")
