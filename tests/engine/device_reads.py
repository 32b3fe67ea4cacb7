"""How often a host waits for its device, counted where both are the same processor.

What is made on a device or moved there is marked, and so is whatever is computed from it; each call that brings marked
numbers back to the host, or a copy that waits for the device, is written down. So is a copy to the device from memory
that is not pinned: CUDA may keep the host waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

__all__ = ["device_reads", "lies_there"]

_MAKE = {"tensor", "as_tensor"}
_READS = {"item", "tolist", "numpy", "cpu", "nonzero", "masked_select", "__bool__", "__int__", "__float__", "__index__"}


@contextmanager
def device_reads() -> Iterator[list[str]]:
    """Inside, the names of the calls that wait, in order."""
    from triton.runtime import interpreter

    launch = interpreter.GridExecutor.__call__

    def launched(kernel: Any, *args: Any, **named: Any) -> Any:
        with torch._C.DisableTorchFunction():  # the interpreter reads what a GPU would have at hand
            return launch(kernel, *args, **named)

    mode = _Reads()
    with pytest.MonkeyPatch.context() as patch, mode:
        patch.setattr(interpreter.GridExecutor, "__call__", launched)
        patch.setattr("kernels.pinned.is_apart", lambda device: True)
        patch.setattr("kernels.rotary._check_places", lambda *_: None)  # numbers on a GPU are not looked at
        yield mode.found


def lies_there(part: Any) -> Any:
    """The tensor, marked as one on the device."""
    if isinstance(part, torch.Tensor):
        part.lies_on_device = True  # type: ignore[attr-defined]  # ours
    return part


class _Reads(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name == "pin_memory":
            return _pinned(args[0].clone())
        if named.pop("pin_memory", False):
            return _pinned(func(*args, **named))
        result = func(*args, **named)
        marked = any(_is_marked(part) for part in tree_flatten((args, named))[0])
        if name == "to" and isinstance(named.get("device", args[1] if len(args) > 1 else None), torch.device):
            if not named.get("non_blocking") or not _is_pinned(args[0]):
                self.found.append("to")
            return lies_there(result.clone())  # elsewhere: what is written here from now on is not seen there
        if name == "copy_" and _is_marked(args[0]) != _is_marked(args[1]):
            if _is_marked(args[1]) or not named.get("non_blocking") or not _is_pinned(args[1]):
                self.found.append("copy_")
            return result
        if name in _MAKE and named.get("device") is not None:
            self.found.append(name)
        if name in _READS and marked:
            self.found.append(name)
            return result
        if marked or named.get("device") is not None:
            for part in tree_flatten(result)[0]:
                lies_there(part)
        return result


def _is_marked(part: Any) -> bool:
    return getattr(part, "lies_on_device", False)


def _pinned(part: torch.Tensor) -> torch.Tensor:
    part.is_pinned_here = True  # type: ignore[attr-defined]  # ours
    return part


def _is_pinned(part: Any) -> bool:
    return getattr(part, "is_pinned_here", False)
