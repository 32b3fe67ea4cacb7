"""What machines of other kinds get: the same sources, built for processors without this one's instructions."""

from __future__ import annotations

import importlib
import platform
import random
from collections.abc import Callable

import pytest
import torch

from kernels.attention import attention as attention_kernel
from kernels.linear import Linear
from kernels.noise import Choice, choose, log_sum, noise, noise_reference
from kernels.norm import rms_norm
from kernels.paged import KVCache, Rows
from kernels.swiglu import swiglu
from tests.kernels import test_rotary
from tests.kernels.rig import (
    DTYPES,
    ROUNDING,
    assert_close,
    dependent_rows,
    hard_to_round,
    library_from,
    normal,
    require_library,
    same_bits,
)
from tests.kernels.scenes import differing_layouts, make_scene, random_layout, run

# By name: the package has a function of the same name in the module's place.
builder = importlib.import_module("kernels.native.build")
GENERIC = {"x86-64-v2": {"sse4_2"}, "x86-64-v3": {"avx2", "fma"}}  # and the features that a processor needs to run them


@pytest.fixture(scope="session", params=sorted(GENERIC))
def generic_library(request: pytest.FixtureRequest) -> str:
    """The same sources without AVX-512, and without fused multiply-add too: what an older processor gets.

    Kept in the ordinary cache folder, so that only the first run of the tests waits for the compiler.
    """
    if platform.machine() != "x86_64":
        pytest.skip("these builds are for x86-64")
    if not GENERIC[request.param] <= set(builder._processor_features().split()):
        pytest.skip(f"this processor cannot run {request.param}")
    require_library()
    flags = tuple(f"-march={request.param}" if flag == "-march=native" else flag for flag in builder.FLAGS)
    assert flags != builder.FLAGS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "FLAGS", flags)
        return str(builder.build())


def attention(queries: torch.Tensor, rows: Rows, cache: KVCache, layer: int, window: int) -> torch.Tensor:
    return attention_kernel(queries, rows, cache, layer, window=window)


def every_operation(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Results over ragged shapes: whole vectors, partial ones, several tiles, tree slots, windows, far values."""
    results: dict[str, torch.Tensor] = {}
    layer = Linear(normal(75, 94, seed=1, dtype=dtype), normal(75, seed=2))
    x = normal(19, 94, seed=3, dtype=dtype)
    results["linear"] = layer(x)
    results["linear, added"] = layer.add_to(x, normal(19, 75, seed=4))
    results["embed"] = layer.embed(torch.tensor([0, 74, 33]))
    results["norm"] = rms_norm(normal(7, 77, seed=5), normal(77, seed=6), 1e-6, dtype)
    results["swiglu"] = swiglu(normal(7, 2 * 77, seed=7) * 40, dtype)
    norms = (normal(48, seed=8), normal(48, seed=9))
    turned = test_rotary.run(
        normal(5, 7 * 48, seed=10), [0, 3, 9, 150, 7], [5, 70, 33, 2, 1], dtype, kv_heads=2, head_dim=48, norms=norms
    )
    results["queries"], results["keys"], results["values"] = turned[:3]
    rounded = test_rotary.run(
        hard_to_round(3 * 54, seed=14).view(3, 54), [0, 3, 9], [5, 70, 33], dtype, kv_heads=1, head_dim=18
    )
    results["rounded values"] = rounded[2]
    for window in (0, 20):
        scene = make_scene(
            11, dtype=dtype, kv_heads=2, group=7, head_dim=48, lengths=[100, 33, 1], rows_per_sequence=3, window=window
        )
        results[f"attention, window {window}"] = run(attention, scene, random_layout(scene, random.Random(12)))
    logits = normal(5, 133, seed=13) * 10
    logits[1, 5:9] = float("-inf")
    choices = [Choice(seed=2**63 + i, position=2**40 + i, noisy=i > 1, inverse_temperature=0.7) for i in range(5)]
    results["choice"], results["chosen"] = choose(logits, choices, num_top=4, first_token=3)
    results["log sum"] = log_sum(logits)
    return results


def test_other_processors_get_the_same_bits_in_float32(generic_library: str) -> None:
    here = every_operation(torch.float32)
    with library_from(generic_library) as library:
        assert library.specfleet_has_bf16_dot() == 0
        there = every_operation(torch.float32)
    assert [name for name in here if not same_bits(here[name], there[name])] == []


def test_other_processors_get_the_same_noise(generic_library: str) -> None:
    with library_from(generic_library):
        for seed, position, first, size in ((0, 0, 0, 1000), (2**64 - 1, 2**63 + 5, 3, 257), (1, 2**32, 100_001, 66)):
            expected = noise_reference(seed, position, first, first + size)
            assert same_bits(noise(seed, position, first, first + size), expected)


def test_other_processors_are_right_in_bfloat16(generic_library: str) -> None:
    """Not the same bits: the pairwise product of newer processors adds in another order. As close to exact, though."""
    dtype = torch.bfloat16
    weight, x = normal(75, 94, seed=1, dtype=dtype), normal(19, 94, seed=3, dtype=dtype)
    scene = make_scene(11, dtype=dtype, kv_heads=2, group=7, head_dim=48, lengths=[100, 33], rows_per_sequence=3)
    layout = random_layout(scene, random.Random(12))
    here = every_operation(dtype)
    with library_from(generic_library):
        product, attended = Linear(weight)(x), run(attention, scene, layout)
        there = every_operation(dtype)
    magnitude = x.double().abs() @ weight.double().abs().T
    assert_close(product, x.double() @ weight.double().T, rtol=0.0, atol=magnitude * 1e-6)
    exact = torch.stack([scene.exact(row) for row in layout.group])
    assert_close(attended, exact, rtol=ROUNDING[dtype], atol=3e-6)
    sums = [name for name in here if "linear" in name or "attention" in name]
    assert [name for name in here if name not in sums and not same_bits(here[name], there[name])] == []
    for name in sums:
        assert_close(there[name], here[name].double(), rtol=2 * ROUNDING[here[name].dtype], atol=2e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_on_other_processors_do_not_depend_on_their_neighbours(generic_library: str, dtype: torch.dtype) -> None:
    with library_from(generic_library):
        layer = Linear(normal(75, 94, seed=1, dtype=dtype), normal(75, seed=2))
        checks: list[tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]] = [
            (layer, normal(19, 94, seed=3, dtype=dtype)),
            (lambda some: rms_norm(some, torch.ones(77), 1e-6, dtype), normal(9, 77, seed=4)),
            (lambda some: swiglu(some, dtype), normal(9, 154, seed=5)),
            (log_sum, normal(9, 133, seed=6)),
        ]
        for operation, x in checks:
            assert dependent_rows(operation, x, seed=7) == []
        scene = make_scene(
            8, dtype=dtype, kv_heads=2, group=3, head_dim=48, lengths=[100, 33, 16], rows_per_sequence=3, window=40
        )
        layouts = [random_layout(scene, random.Random(i)) for i in range(4)]
        assert differing_layouts(attention, scene, layouts) == []
