"""Every kernel becomes machine code of a GPU, though none is here."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

LEAST_SHARED_BYTES = 99 * 1024
"""What a program may take on GPUs of capability 8.6 and 8.9; larger ones give more."""
MOST_STACK_BYTES = 256
"""Of each thread; more means that a kernel waits for memory where it should be computing."""
FORMS = {
    "attention._attend": 1,
    "attention._join": 1,
    "linear._linear": 1,
    "noise._best_of_part": 4,  # with and without edits and masks
    "noise._best_of_row": 6,  # a size for each power of two of choices that are wanted
    "paged._copy": 2,  # from the cache and into it
    "pick._scale": 4,
    "pick._threshold": 1,
    "pruning._compact_rows": 6,  # a size for each power of two of rows
    "pruning._count_larger": 1,
    "rotary._rotary": 1,
}
"""Of each kernel in service, however many rows there are and wherever their numbers lie."""
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.timeout(300)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="Triton brings an assembler for GPUs to x86-64 alone")
def test_every_kernel_compiles_for_hopper(tmp_path: Path) -> None:
    """And none has a multiplication fused with an addition: the noise must not, and others keep their bits so too.

    That there is enough shared memory is seen at the launch alone, so it is counted here. And compiling takes seconds,
    in which a service stands still: no step may need another form of a kernel because it has a row more.
    """
    pytest.importorskip("triton", reason="no Triton for this machine, and so nothing that compiles kernels")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "tests.kernels.gpu.compiling", "90"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    everything = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["kernel"]: line["num_forms"] for line in everything if "num_forms" in line} == FORMS
    lines = [line for line in everything if "num_forms" not in line]
    assert {line["kernel"] for line in lines} == launched_kernels()
    # Float32 goes through no matrix instruction, and products add up in their own order, fused or not.
    products = {"attention._attend", "linear._linear"}
    assert {(line["kernel"], line["type"]) for line in lines if line["num_fused"]} == {
        (name, "torch.float32") for name in products
    }
    assert {line["kernel"] for line in lines if line["shared_bytes"] > LEAST_SHARED_BYTES} == set()
    assert [line for line in lines if line["stack_bytes"] > MOST_STACK_BYTES] == []
    assert {(line["kernel"], line["type"]) for line in lines if line["num_matrix"]} == {
        (name, "torch.bfloat16") for name in products
    }


def launched_kernels() -> set[str]:
    """What the sources launch: `_name[grid](...)`."""
    files = (ROOT / "kernels" / "gpu").glob("*.py")
    return {f"{file.stem}.{name}" for file in files for name in re.findall(r"^\s+(_\w+)\[\(", file.read_text(), re.M)}
