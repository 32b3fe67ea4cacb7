"""OpenVINO GenAI as a peer, where a Python that has it is named: plainly, or with a draft model."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from benchmarks.peers.installed import printed
from benchmarks.peers.line_process import LineProcess, line_process

__all__ = ["DTYPE", "PREFIX", "WAYS", "openvino", "openvino_version"]

PREFIX = "openvino-"
WAYS = ("plain", "speculative")
DTYPE = "float16"
"""Of the GGUF file that it is given: it reads neither bfloat16 nor float32 ones, and multiplies in float32 where the
processor has no such products."""


def openvino_version(python: str) -> str:
    """Refused, with what to do, where that Python has no OpenVINO GenAI."""
    return printed(
        python,
        "import openvino_genai; print(openvino_genai.__version__)",
        option="--openvino-python",
        name="OpenVINO GenAI",
        package="openvino-genai",
    )


def openvino(
    way: str, *, python: str, target: Path, assistant: Path, threads: int
) -> AbstractAsyncContextManager[LineProcess]:
    """`target` and `assistant` are GGUF files, each in a folder of its own, where OpenVINO may write."""
    command = [python, "-m", "benchmarks.peers.openvino_process", "--target", str(target), "--threads", str(threads)]
    if way == "speculative":
        command += ["--assistant", str(assistant)]
    return line_process(f"{PREFIX}{way}", command, threads=threads, max_together=None)
