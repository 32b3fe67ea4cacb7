"""What `status` and `top` show fits the screen that there is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from specfleet.cli.models import models_table
from specfleet.cli.views import drafters_table
from specfleet.events import Model
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


def test_all_drafters_of_a_model_are_told_where_the_screen_is_narrow() -> None:
    names = tuple(f"drafter-{number}" for number in range(20))
    model = Model(
        name="target",
        architecture="LlamaForCausalLM",
        dtype="bfloat16",
        num_parameters=6_800_000,
        vocab_size=1,
        max_context=2048,
        drafters=names,
        is_ready=True,
        tokenizer_digest="",
        weights_digest="",
    )
    screen = Console(file=io.StringIO(), width=80, record=True)
    screen.print(models_table([model]))
    shown = screen.export_text()
    assert all(word in shown for word in ("target", "LlamaForCausalLM", "6.8 M", "bfloat16", "2048", "yes", *names))
    assert max(map(len, shown.splitlines())) <= 80
