"""What the tests of the kernels share: the forms an operation comes in, and what it means that rows are independent."""

from __future__ import annotations

import contextlib
import ctypes
import random
from collections.abc import Callable, Iterator

import pytest
import torch

from kernels import native
from kernels.native import signatures

DTYPES = [torch.float32, torch.bfloat16]
# Half a unit in the last place of the result's type, and a little: all arithmetic in between is float32.
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-8}
FORMS = ["native", "reference"]

RowOperation = Callable[[torch.Tensor], torch.Tensor]


@contextlib.contextmanager
def form(name: str) -> Iterator[None]:
    """Operations inside run in the CPU library ("native") or in their torch references ("reference")."""
    if name == "native":
        require_library()
        yield
        return
    with native.reference_only():
        yield


def require_library() -> None:
    """Skips where there is no CPU library: it would silently test the reference against itself."""
    if native.library() is None:
        pytest.skip("no CPU library here, and so no fast path to test")


@contextlib.contextmanager
def library_from(path: str) -> Iterator[ctypes.CDLL]:
    """Operations inside run in the library at `path`."""
    loaded = signatures.declare(ctypes.CDLL(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_load", lambda: loaded)
        yield loaded


def bits(x: torch.Tensor) -> torch.Tensor:
    """The same numbers as integers, so that equal means equal in every bit, and NaN equals itself."""
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def hard_to_round(num: int, seed: int) -> torch.Tensor:
    """Float32 [num]: halfway between two bfloat16 numbers, next to that, at both ends of the range, and no numbers.

    Subnormals are left out: the instruction of newer processors flushes them.
    """
    words = torch.randint(0x0080, 0x7F80, (num,), generator=torch.Generator().manual_seed(seed)) << 16
    words += torch.tensor([0x0000, 0x7FFF, 0x8000, 0x8001, 0xFFFF]).repeat(-(-num // 5))[:num]
    signed = torch.where(torch.arange(num) % 2 == 0, words, words - 2**31)  # the sign bit, as int32 has it
    numbers = signed.to(torch.int32).view(torch.float32)
    numbers[::7] = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 3.4e38, -3.4e38]).repeat(num)[
        : len(numbers[::7])
    ]
    return numbers


def dependent_rows(
    operation: RowOperation,
    x: torch.Tensor,  # [rows, ...]
    seed: int,
    *,
    num_groups: int = 6,
) -> list[str]:
    """How rows of an operation depend on their neighbours; nothing to say where they do not.

    Every row is computed alone, among all others, and in random groups in random order (with repeats, so in other
    places of other tiles), with one to three threads.
    """
    rng = random.Random(seed)
    alone = torch.cat([operation(x[i : i + 1]) for i in range(x.shape[0])])
    groups = [list(range(x.shape[0]))]
    groups += [[rng.randrange(x.shape[0]) for _ in range(rng.randint(1, 20))] for _ in range(num_groups)]
    groups += [groups[0], groups[0]]  # with two and three threads
    complaints = []
    for index, group in enumerate(groups):
        num_threads = 1 + index % 3
        with native.use_threads(num_threads):
            together = operation(x[group])
        differing = [place for place, row in enumerate(group) if not same_bits(together[place], alone[row])]
        if differing:
            complaints.append(f"rows at places {differing} of {len(group)}, {num_threads} threads, are not as alone")
    return complaints


def with_bad_row(x: torch.Tensor, row: int) -> torch.Tensor:
    """x with NaN and infinities all over one row."""
    x = x.clone()
    x[row] = float("nan")
    x[row].view(-1)[::3] = float("inf")
    return x


def assert_close(
    found: torch.Tensor,
    exact: torch.Tensor,  # float64
    *,
    rtol: float,
    atol: torch.Tensor | float = 0.0,
) -> None:
    """|found - exact| within rtol * |exact| + atol, element by element; on failure names the worst."""
    error = (found.double() - exact).abs()
    allowed = exact.abs() * rtol + atol
    worst = int((error - allowed).argmax())
    assert bool((error <= allowed).all()), (
        f"element {worst} of {tuple(found.shape)}: {found.flatten()[worst]:.9g} instead of {exact.flatten()[worst]:.9g}"
    )
