"""What a simulated fleet runs on: how long steps and messages take. Plain numbers, so that a machine can be made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from contracts.types import DrafterId, StepReport
from speculation.cost import CostTable, StepCost

__all__ = ["DrafterMachine", "VerifierMachine", "linear_cost", "measured_cost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierMachine:
    """`handling_s`: what passes at the verifier between a round's last computation and the next round's first."""

    cost: StepCost
    link_s: float = 0.0003
    handling_s: float = 0.0002
    max_rows: int = 512
    num_blocks: int = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterMachine:
    """A step for so many sequences takes `step_s * (1 + crowding * (n - 1))`."""

    drafter: DrafterId
    step_s: float
    crowding: float = 0.0
    prefill_s_per_token: float = 0.0
    link_s: float = 0.0003
    capacity: int = 1024
    has_logits: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Linear:
    base_s: float
    row_s: float
    free_rows: float
    key_s: float = field(default=0.0)

    def cost_s(self, num_rows: float, num_context: float) -> float:
        return self.base_s + self.row_s * max(num_rows - self.free_rows, 0.0) + self.key_s * num_context

    def costs_s(self, num_rows, num_context):  # type: ignore[no-untyped-def]  # arrays as in StepCost
        return self.base_s + self.row_s * (num_rows - self.free_rows).clip(0.0) + self.key_s * num_context


def linear_cost(*, base_s: float, row_s: float, free_rows: float = 1.0, key_s: float = 0.0) -> StepCost:
    """Reading the weights takes `base_s`, and hides the arithmetic of `free_rows`; each further row takes `row_s`."""
    return _Linear(base_s=base_s, row_s=row_s, free_rows=free_rows, key_s=key_s)


def measured_cost(reports: Sequence[StepReport]) -> StepCost:
    """As it was measured on some machine."""
    table = CostTable()
    for report in reports:
        table.observe(report)
    return table
