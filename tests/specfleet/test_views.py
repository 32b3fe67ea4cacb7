"""What `status` and `top` show fits the screen that there is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from specfleet.cli.views import drafters_table
from specfleet.v1 import admin_pb2 as pb

DRAFTERS = [
    pb.DrafterStatus(
        name=name,
        kind="prompt_lookup",
        state="quarantined",
        device="cuda:0",
        num_sequences=128,
        num_draft_tokens=1000,
        num_accepted_tokens=615,
        step_s=0.00123,
        idle_share=1.0,
        calibration_error=0.034,
    )
    for name in ("general", "translation-de-en")
]


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_no_cell_of_the_drafters_is_cut(width: int) -> None:
    screen = Console(file=io.StringIO(), width=width, record=True)
    screen.print(drafters_table(DRAFTERS, {}, width=width))
    shown = screen.export_text()
    assert "…" not in shown
    assert ("prompt_lookup" in shown) is ("cuda:0" in shown) is ("██████▏" in shown) is (width >= 120)
    assert shown.count("62 %") == shown.count("1.23 ms") == shown.count("0.034") == len(DRAFTERS)
