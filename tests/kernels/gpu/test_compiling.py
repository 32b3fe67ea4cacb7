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
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="Triton brings an assembler for GPUs to x86-64 alone")
def test_every_kernel_compiles_for_hopper(tmp_path: Path) -> None:
    """And none has a multiplication fused with an addition: the noise must not, and others keep their bits so too.

    That there is enough shared memory is seen at the launch alone, so it is counted here.
    """
    pytest.importorskip("triton", reason="no Triton for this machine, and so nothing that compiles kernels")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "tests.kernels.gpu.compiling", "90"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["kernel"] for line in lines} == launched_kernels()
    assert {line["kernel"] for line in lines if line["num_fused"]} == set()
    assert {line["kernel"] for line in lines if line["shared_bytes"] > LEAST_SHARED_BYTES} == set()
    with_products = {line["kernel"] for line in lines if line["num_matrix"]}
    assert with_products == {"attention._attend", "linear._linear"}


def launched_kernels() -> set[str]:
    """What the sources launch: `_name[grid](...)`."""
    files = (ROOT / "kernels" / "gpu").glob("*.py")
    return {f"{file.stem}.{name}" for file in files for name in re.findall(r"^\s+(_\w+)\[\(", file.read_text(), re.M)}
