"""A step-cost table as plain data and back: a restarted router need not probe again. Reading believes nothing."""

from __future__ import annotations

from contracts.errors import InvalidArgument, shown
from speculation.cost import MOST, CostTable
from speculation.state import field_of, integer, items, number

__all__ = ["cost_from_state", "cost_to_state"]

_WHAT = "cost table state"
_VERSION = 1
_MOST_CELLS = 100_000


def cost_to_state(table: CostTable) -> dict[str, object]:
    """The samples of every cell, and where in it they lie on average."""
    return {
        "version": _VERSION,
        "num_samples": table.num_samples,
        "memory": table.memory,
        "refit_every": table.refit_every,
        "cells": [
            {"num_rows": round(rows), "num_context": round(context), "elapsed_s": list(samples)}
            for rows, context, samples in table.points()
        ],
    }


def cost_from_state(state: object) -> CostTable:
    """Reads what `cost_to_state` wrote. All of it counts as equally old."""
    if (version := field_of(_WHAT, state, "version")) != _VERSION:
        raise InvalidArgument(f"{_WHAT} has version {shown(version)}; this program reads {_VERSION}")
    table = CostTable(
        num_samples=integer(_WHAT, field_of(_WHAT, state, "num_samples"), 1, 10_000),
        memory=number(_WHAT, field_of(_WHAT, state, "memory"), 1.0, 1e15),
        refit_every=integer(_WHAT, field_of(_WHAT, state, "refit_every"), 1, 1_000_000),
    )
    for cell in items(_WHAT, field_of(_WHAT, state, "cells"), _MOST_CELLS):
        num_rows = integer(_WHAT, field_of(_WHAT, cell, "num_rows"), 1, MOST)
        num_context = integer(_WHAT, field_of(_WHAT, cell, "num_context"), num_rows, MOST)
        for elapsed_s in items(_WHAT, field_of(_WHAT, cell, "elapsed_s"), table.num_samples):
            table.add(num_rows, num_context, number(_WHAT, elapsed_s, 1e-9, 1e6))
    return table
