"""What a simulated fleet runs on: how long steps and messages take. Plain numbers, so that a machine can be made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.types import DrafterId, StepReport
from speculation.cost import CostTable, StepCost

__all__ = ["DrafterMachine", "RouterMachine", "VerifierMachine", "linear_cost", "measured_cost", "num_keys"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierMachine:
    """`handling_s`: what passes at the verifier between a round's last computation and the next round's first."""

    cost: StepCost
    link_s: float = 0.0003
    handling_s: float = 0.0002
    max_rows: int = 512
    max_context: int = 4096
    num_blocks: int = 100_000
    num_threads: int = 1
    """Where cores are shared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterMachine:
    """`cost` is that of a step by rows: one for each place that it computes, in all sequences together."""

    drafter: DrafterId
    cost: StepCost
    link_s: float = 0.0003
    prefill_s_per_token: float = 0.0
    capacity: int = 1024
    has_logits: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterMachine:
    """What the router's processor does: for everything that it wakes up for, and for each message it reads then."""

    wake_s: float = 0.0
    message_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Linear:
    base_s: float
    row_s: float
    free_rows: float
    key_s: float = 0.0

    def cost_s(self, num_rows: float, num_context: float) -> float:
        return self.base_s + self.row_s * max(num_rows - self.free_rows, 0.0) + self.key_s * num_context

    def costs_s(
        self,
        num_rows: NDArray[np.float64],  # [n]
        num_context: NDArray[np.float64],  # [n]
    ) -> NDArray[np.float64]:
        costs: NDArray[np.float64] = (
            self.base_s + self.row_s * np.maximum(num_rows - self.free_rows, 0.0) + self.key_s * num_context
        )
        return costs


def linear_cost(*, base_s: float, row_s: float, free_rows: float = 1.0, key_s: float = 0.0) -> StepCost:
    """Reading the weights takes `base_s`, and hides the arithmetic of `free_rows`; each further row takes `row_s`."""
    return _Linear(base_s=base_s, row_s=row_s, free_rows=free_rows, key_s=key_s)


def measured_cost(reports: Sequence[StepReport]) -> StepCost:
    """As it was measured on some machine."""
    table = CostTable()
    for report in reports:
        table.observe(report)
    return table


def num_keys(num_rows: int, end: int) -> int:
    """Of rows that follow each other up to `end` tokens: each attends itself and all before it, and none after."""
    return num_rows * (end - num_rows) + num_rows * (num_rows + 1) // 2
