"""Compiles every kernel for a GPU that need not be there: `python -m tests.kernels.gpu.compiling 90`.

The interpreter runs Python; much that it runs does not compile. Here each launch ends with machine code for compute
capability 8.0 or 9.0, made by the compiler and assembler that Triton brings along, and nothing runs. Prints a line of
JSON for each kernel: its name, how many instructions multiply matrices, how many multiply and add at once, how much
shared memory a program takes and how much stack a thread, for what its registers do not hold. Before, a line for each
of how many forms Triton would compile for steps of many sizes: it makes one for each alignment and kind of number.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kernels.noise import Choice
from kernels.paged import BLOCK_TOKENS, KVCache, Rows
from kernels.pick import Allowed, Edits
from tests.kernels.scenes import lay_out, make_scene, random_layout

_type = ""
"""Of what is being launched."""


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


def compile_only() -> None:
    """From here on a launch compiles, says so, and does nothing."""
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def compile_and_say(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled = run(kernel, *args, grid=grid, warmup=True, **options)
        assert compiled.asm["cubin"], "no machine code"
        ptx = compiled.asm["ptx"]
        num_matrix, num_fused = (
            len(re.findall(text, ptx)) for text in (r"mma\.sync|wgmma\.mma_async", r"fma\.rn\.f32")
        )
        shared_bytes = compiled.metadata.shared
        facts = {
            "kernel": _name_of(kernel),
            "type": _type,
            "num_matrix": num_matrix,
            "num_fused": num_fused,
            "shared_bytes": shared_bytes,
            "stack_bytes": _stack_bytes(compiled.asm["cubin"]),
        }
        print(json.dumps(facts))
        return compiled

    JITFunction.run = compile_and_say


def _name_of(kernel: Any) -> str:
    return f"{kernel.__module__.removeprefix('kernels.gpu.')}.{kernel.__name__}"


def _stack_bytes(cubin: bytes) -> int:
    """Of each thread, as the tool says that comes with the assembler."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(int(found) for found in re.findall(r"STACK:(\d+)", told))


def count_forms() -> None:
    """How many forms each kernel would have after steps of all sizes that differ in what Triton looks at."""
    from triton import knobs

    forms = defaultdict[str, set[str]](set)

    def note(*, key: str, fn: Any, **_: Any) -> bool:
        forms[_name_of(fn.jit_function)].add(key)
        return True  # so that nothing is compiled

    knobs.runtime.jit_cache_hook = note
    launch_sizes()
    knobs.runtime.jit_cache_hook = None
    for kernel, keys in forms.items():
        print(json.dumps({"kernel": kernel, "num_forms": len(keys)}))


def launch_sizes() -> None:
    """What changes from step to step: rows, tables, tails, edits, masks, limits and how many choices are wanted."""
    from kernels.gpu import attention, linear, noise, paged, pick, pruning, rotary

    dtype, d, hidden = torch.bfloat16, 128, 4096
    cache = KVCache(num_layers=1, num_blocks=64, num_kv_heads=2, head_dim=d, dtype=dtype, key_width=d)
    angles, x, weight = torch.zeros(256, d // 2), torch.zeros(33, hidden), torch.zeros(96, hidden, dtype=dtype)
    for count in (*range(1, 10), 16, 33):
        rows = _tree(count, num_blocks=1 + count % 5)
        attention.attention(torch.zeros(count, 8 * d, dtype=dtype), rows, cache, 0, window=0)
        angle = {"cosines": angles, "sines": angles}
        rotary.rotary_into_cache(
            torch.zeros(count, 12 * d), rows, cache, 0, **angle, query_norm=None, key_norm=None, eps=1e-6
        )
        paged.copy_slots(cache.keys, cache.values, *torch.zeros(2, count, dtype=torch.int64))
        linear.linear(x[:count].to(dtype), weight, None, torch.zeros(count, 96), accumulate=True)
        pruning.count_larger(x, *_parts(torch.zeros(2 * count, dtype=torch.int64), count))
        pruning.compact_rows(x[:count], torch.ones(64, dtype=torch.bool)[count % 3 :][:count])
        choices, everyone = [Choice(noisy=True)] * count, Allowed.all()
        some = Allowed(rows=np.arange(count), bits=np.zeros((count, hidden // 8), np.uint8))
        edits = Edits.of([(0, token, 2.0, 0.0) for token in range(count)])
        for its_edits, allowed in ((Edits.of(), everyone), (edits, everyone), (Edits.of(), some), (edits, some)):
            limits = np.array([(count, 0.9, 0.0)] * count)
            pick.pick(x[:count], choices, its_edits, allowed, limits, num_top=count, first_token=0)
            pick.pick(x[:count], choices, its_edits, allowed, None, num_top=count, first_token=0)
        noise.choose(x[:count], choices, num_top=count, first_token=0)


def _parts(numbers: torch.Tensor, count: int) -> Sequence[torch.Tensor]:
    """Rows and values as they may lie: each behind another."""
    return numbers[count:], numbers.view(torch.float32)[:count]


def _tree(count: int, *, num_blocks: int) -> Rows:
    """Siblings below a text of whole blocks."""
    end = num_blocks * BLOCK_TOKENS
    return Rows.from_lists(
        positions=[end] * count,
        write_slots=[512 + row for row in range(count)],
        num_in_table=[end] * count,
        table_offsets=[0] * count,
        tables=list(range(num_blocks)),
        tail_offsets=list(range(count + 1)),
        tail_slots=[512 + row for row in range(count)],
    )


def launch_all(*, fp8: bool) -> None:
    """Every kernel in both types, with the sizes of an 8B model where they decide what is compiled."""
    global _type
    for dtype in (torch.bfloat16, torch.float32):
        _type = str(dtype)
        launch_layer(dtype, fp8=fp8)
    _type = "logits"
    launch_choice()


def launch_layer(dtype: torch.dtype, *, fp8: bool) -> None:
    """What layers are made of."""
    from kernels.gpu import attention, linear, norm, paged, quantised, rotary, swiglu

    d, hidden = 128, 4096
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


def launch_choice() -> None:
    """What logits go through, which are float32; and rows."""
    from kernels.gpu import noise, pick, pruning

    hidden = 4096
    x = torch.zeros(3, hidden)
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
    from triton.runtime import driver

    capability = int(sys.argv[1])
    driver.set_active(_AbsentGpu(capability))
    count_forms()
    compile_only()
    launch_all(fp8=capability >= 89)
    return 0


if __name__ == "__main__":
    sys.exit(main())
