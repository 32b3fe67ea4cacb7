"""Compiles every kernel for a GPU that need not be there: `python -m tests.kernels.gpu.compiling 90`.

The interpreter runs Python; much that it runs does not compile. Here each launch ends with machine code for compute
capability 8.0 or 9.0, made by the compiler and assembler that Triton brings along, and nothing runs. Prints a line of
JSON for each kernel: its name, how many instructions multiply matrices, how many multiply and add at once, and how
much shared memory a program takes.
"""

from __future__ import annotations

import json
import random
import re
import sys
from typing import Any

import numpy as np
import torch

from kernels.noise import Choice
from kernels.paged import KVCache
from kernels.pick import Allowed, Edits
from tests.kernels.scenes import lay_out, make_scene, random_layout


class _AbsentGpu:
    """What Triton asks of a driver before it launches anything."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


def compile_only(capability: int) -> None:
    """From here on a launch compiles, says so, and does nothing."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    driver.set_active(_AbsentGpu(capability))
    run = JITFunction.run

    def compile_and_say(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled = run(kernel, *args, grid=grid, warmup=True, **options)
        assert compiled.asm["cubin"], "no machine code"
        ptx = compiled.asm["ptx"]
        name = f"{kernel.__module__.removeprefix('kernels.gpu.')}.{kernel.__name__}"
        num_matrix, num_fused = (
            len(re.findall(text, ptx)) for text in (r"mma\.sync|wgmma\.mma_async", r"fma\.rn\.f32")
        )
        shared_bytes = compiled.metadata.shared
        facts = {"kernel": name, "num_matrix": num_matrix, "num_fused": num_fused, "shared_bytes": shared_bytes}
        print(json.dumps(facts))
        return compiled

    JITFunction.run = compile_and_say


def launch_all(*, fp8: bool) -> None:
    """Every kernel in bfloat16, with the sizes of an 8B model where they decide what is compiled."""
    from kernels.gpu import attention, linear, noise, norm, paged, pick, pruning, quantised, rotary, swiglu

    dtype, d, hidden = torch.bfloat16, 128, 4096
    scene = make_scene(0, dtype=dtype, kv_heads=2, group=4, head_dim=d, lengths=[20, 40], rows_per_sequence=2)
    queries, rows, _ = lay_out(scene, random_layout(scene, random.Random(0)))
    cache = KVCache(num_layers=2, num_blocks=16, num_kv_heads=2, head_dim=d, dtype=dtype, key_width=d)
    attention.attention(queries, rows, cache, 1, window=0)
    angles, head_norm = torch.zeros(64, d // 2), torch.ones(d)
    rotary.rotary_into_cache(
        torch.zeros(rows.count, 12 * d),
        rows,
        cache,
        0,
        cosines=angles,
        sines=angles,
        query_norm=head_norm,
        key_norm=head_norm,
        eps=1e-6,
    )
    paged.copy_slots(cache.keys, cache.values, torch.tensor([1, 2]), torch.tensor([3, 4]))
    x = torch.zeros(3, hidden)
    norm.rms_norm(x, x, torch.ones(hidden), 1e-6, dtype)
    swiglu.swiglu(x, dtype)
    numbers, bias = x.to(dtype), torch.zeros(96)
    linear.linear(numbers, torch.zeros(96, hidden, dtype=dtype), bias, torch.zeros(3, 96), accumulate=True)
    linear.linear(numbers, torch.zeros(16384, hidden, dtype=dtype), None, torch.zeros(3, 16384), accumulate=False)
    for kind in (torch.int8, torch.float8_e4m3fn) if fp8 else (torch.int8,):
        quantised.quantised_linear(numbers, torch.zeros(96, hidden).to(kind), bias, bias)
    choices = [Choice(seed=1, position=2, noisy=True)] * 3
    noise.log_sum(x)
    noise.noise(1, 2, 3, 100, "cpu")
    noise.gumbel_of_words(torch.tensor([1, 2]))
    noise.choose(x, choices, num_top=4, first_token=1)
    everyone, edits = Allowed.all(), Edits.of([(0, 5, 2.0, 0.0)])
    allowed = Allowed(rows=np.array([1]), bits=np.zeros((1, hidden // 8), np.uint8))
    pick.pick(x, choices, edits, everyone, None, num_top=1, first_token=0)
    pick.pick(x, choices, edits, allowed, np.array([(5, 0.9, 0.1)] * 3), num_top=4, first_token=0)
    pruning.count_larger(x, torch.tensor([0, 1]), torch.zeros(2))
    pruning.compact_rows(x, torch.tensor([True, False, True]))


def main() -> int:
    """The command."""
    capability = int(sys.argv[1])
    compile_only(capability)
    launch_all(fp8=capability >= 89)
    return 0


if __name__ == "__main__":
    sys.exit(main())
