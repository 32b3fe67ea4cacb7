"""How far the analytic step costs are from published ones: `python -m benchmarks.simulator.published`.

Figures are of one sequence with a short context, at 16 bits, as tokens a second.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.simulator.hardware import MODELS, Hardware, analytic_cost, hardware

__all__ = ["PUBLISHED", "Published", "main"]

_GPT_FAST = "gpt-fast README, A100-80GB at 330 W"
_LLAMA_CPP = "XiongjieDai/GPU-Benchmarks-on-LLM-Inference, llama.cpp"
_PCIE_BYTES_PER_S = {"h100": 2.04e12, "a100": 1.935e12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """`was_fitted`: the constants of `hardware.py` were chosen with this figure in view. `is_pcie`: the card with the
    slower memory."""

    source: str
    model: str
    on: str
    tokens_per_s: float
    was_fitted: bool = False
    is_pcie: bool = False

    @property
    def predicted(self) -> float:
        on = hardware(self.on)
        if self.is_pcie:
            on = Hardware(
                device=replace(on.device, bytes_per_s=_PCIE_BYTES_PER_S[on.device.name]), num_devices=on.num_devices
            )
        return 1.0 / analytic_cost(MODELS[self.model], on).cost_s(1, 64)

    @property
    def error(self) -> float:
        return self.predicted / self.tokens_per_s - 1.0


def _gpt_fast(model: str, num: int, tokens_per_s: float) -> Published:
    return Published(source=_GPT_FAST, model=model, on=f"{num}xa100", tokens_per_s=tokens_per_s, was_fitted=True)


PUBLISHED: Sequence[Published] = (
    _gpt_fast("llama-2-7b", 1, 104.9),
    _gpt_fast("llama-2-7b", 2, 168.84),
    _gpt_fast("llama-2-7b", 4, 254.02),
    _gpt_fast("llama-2-7b", 8, 328.43),
    _gpt_fast("llama-2-70b", 2, 21.32),
    _gpt_fast("llama-2-70b", 4, 38.01),
    _gpt_fast("llama-2-70b", 8, 62.50),
    Published(
        source="arXiv 2603.03251: 255.8 tokens/s is 4.68 times plain",
        model="llama-3.1-70b",
        on="4xh100",
        tokens_per_s=54.7,
    ),
    Published(source=_LLAMA_CPP, model="llama-2-7b", on="rtx3090", tokens_per_s=51.85),
    Published(source=_LLAMA_CPP, model="llama-3.1-8b", on="rtx3090", tokens_per_s=47.40),
    Published(source=_LLAMA_CPP, model="llama-2-7b", on="a100", tokens_per_s=73.83, is_pcie=True),
    Published(source=_LLAMA_CPP, model="llama-2-7b", on="h100", tokens_per_s=83.32, is_pcie=True),
)


def main() -> int:
    print("| model | hardware | published tokens/s | predicted | off by | constants chosen with it | source |")
    print("|---|---|---:|---:|---:|---|---|")
    for each in PUBLISHED:
        on = each.on.removeprefix("1x") + (" (PCIe)" if each.is_pcie else "")
        print(
            f"| {each.model} | {on} | {each.tokens_per_s:.1f} | {each.predicted:.1f} | {each.error:+.0%} | "
            f"{'yes' if each.was_fitted else 'no'} | {each.source} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
