"""The CPU library: loaded once, or found missing once, with one log line that says so.

`library()` is None where no library could be built; every kernel then uses its torch reference. `reference_only()`
is the switch for tests and comparisons.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import threading
from collections.abc import Iterator

import torch

from kernels.native import signatures
from kernels.native.build import BuildError, build

__all__ = ["KINDS", "KIND_OF_FLOAT32", "Choice", "address", "library", "num_threads", "reference_only", "use_threads"]

logger = logging.getLogger(__name__)
Choice = signatures.Choice
KIND_OF_FLOAT32 = 0
KINDS = {torch.float32: KIND_OF_FLOAT32, torch.bfloat16: 1}


class _Setting(threading.local):
    """Per thread: two engines in one process may run with different numbers of threads."""

    num_threads: int = 1
    reference_only: bool = False


_setting = _Setting()


@functools.cache
def _load() -> ctypes.CDLL | None:
    try:
        loaded = signatures.declare(ctypes.CDLL(str(build())))
    except (BuildError, OSError, AttributeError) as error:
        logger.warning("CPU library not available, the slower torch reference is used instead: %s", error)
        return None
    os.register_at_fork(after_in_child=loaded.specfleet_after_fork)
    return loaded


def library() -> ctypes.CDLL | None:
    """The loaded library, or None where there is none or the caller asked for references only."""
    return None if _setting.reference_only else _load()


def num_threads() -> int:
    """How many threads an operation of this thread uses."""
    return _setting.num_threads


class _UseThreads:
    """Every step enters it, so it is no generator."""

    __slots__ = ("before", "count")

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> None:
        self.before = _setting.num_threads
        _setting.num_threads = self.count

    def __exit__(self, *error: object) -> None:
        _setting.num_threads = self.before


def use_threads(count: int) -> contextlib.AbstractContextManager[None]:
    """Operations inside use `count` threads. Results do not depend on it."""
    if count < 1:
        raise ValueError(f"an operation needs at least one thread, got {count}")
    return _UseThreads(count)


@contextlib.contextmanager
def reference_only() -> Iterator[None]:
    """Operations (and weights packed) inside use the torch references."""
    before = _setting.reference_only
    _setting.reference_only = True
    try:
        yield
    finally:
        _setting.reference_only = before


def address(tensor: torch.Tensor | None) -> int | None:
    """The address of a contiguous tensor's first element, None for None."""
    return None if tensor is None else tensor.data_ptr()
