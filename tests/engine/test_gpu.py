"""An engine whose every operation is the GPU's, in Triton's interpreter: what `device: cuda` runs, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from contracts.types import ROOT, DrafterId, DraftNode, SamplingParams, SequenceId
from engine.work import Verify
from tests.engine.checkpoints import write_checkpoint
from tests.engine.rig import Model, step_with_logits
from tests.kernels.gpu.interpreter import interpreter
from tests.kernels.rig import same_bits

ALONE = SequenceId("alone")
PROMPTS = {SequenceId("a"): [9, 8, 7, 6, 5, 4, 3], SequenceId("b"): [11, 40, 12]}
# A chain of two below the root, and two siblings: rows 1 to 4 behind the last token of the prompt.
TREE = tuple(
    DraftNode(token=token, parent=parent, confidence=0.5, drafter=DrafterId("d"))
    for token, parent in ((20, ROOT), (21, 0), (22, ROOT), (23, 0))
)


SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def test_a_tree_beside_a_prompt_is_what_the_cpu_computes_and_what_plain_steps_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near the CPU's logits, for attention's weights are bfloat16; and each row in every bit as it is alone."""
    folder = write_checkpoint(tmp_path, "qwen3", dtype="bfloat16", sliding_window=5, head_dim=16, **SIZES)
    a, b = PROMPTS
    with interpreter():
        monkeypatch.setattr("kernels.gpu.linear._TILE_OUTPUTS", 512)  # fewer programs: each takes milliseconds here
        engine = Model.load(folder, "bfloat16").engine(is_compiled=False, num_blocks=8, prefix_cache=False)
        for sequence, prompt in PROMPTS.items():
            engine.open(sequence, prompt, SamplingParams())
        engine.step([Verify(sequence=a, num_pending=6)])
        _, (tree, plain) = step_with_logits(engine, [Verify(sequence=a, nodes=TREE), Verify(sequence=b)])
        engine.open(ALONE, [*PROMPTS[a], 20, 23], SamplingParams())
        _, (alone,) = step_with_logits(engine, [Verify(sequence=ALONE)])
    assert same_bits(tree[-1:], alone)  # the last node, beside its siblings, behind a prompt read in two pieces
    cpu = Model.load(folder, "bfloat16").engine(is_compiled=False, num_blocks=8)
    for sequence, prompt in PROMPTS.items():
        cpu.open(sequence, prompt, SamplingParams())
    _, on_cpu = step_with_logits(cpu, [Verify(sequence=a, nodes=TREE), Verify(sequence=b)])
    expected = torch.cat(on_cpu)
    assert float((torch.cat([tree, plain]) - expected).norm() / expected.norm()) < 0.02
