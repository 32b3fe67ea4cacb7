"""The same operations on GPUs, in Triton: one file an operation, with the stem of the public one.

Nothing here is imported before `runs` has said yes, so that a machine without Triton needs none.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import threading
from collections.abc import Iterator

import torch

__all__ = ["interpreted", "runs"]

logger = logging.getLogger(__name__)


class _Setting(threading.local):
    """Per thread, as the settings of the CPU library are."""

    interpreted: bool = False


_setting = _Setting()


def runs(x: torch.Tensor) -> bool:
    """Whether operations on x run here: it lies on a GPU, and there is a Triton."""
    return _setting.interpreted or (x.is_cuda and _has_triton())


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Operations inside run here although their tensors lie on the CPU, in Triton's interpreter: for tests."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("TRITON_INTERPRET must be 1 before Triton is imported: it decides when a kernel is declared")
    before = _setting.interpreted
    _setting.interpreted = True
    try:
        yield
    finally:
        _setting.interpreted = before


@functools.cache
def _has_triton() -> bool:
    found = importlib.util.find_spec("triton") is not None
    if not found:
        logger.warning("Triton is not installed, the slower torch references are used on the GPU instead")
    return found
