"""The engine computes what transformers computes, for every family and every way a checkpoint can be written."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from contracts.types import SequenceId, Verdict
from engine.work import Verify
from tests.engine.checkpoints import FAMILIES, write_checkpoint
from tests.engine.rig import GREEDY, Model, node, random_tokens, same_bits, step_with_logits

NUM_PROMPT, NUM_NEW = 40, 32
NAME = SequenceId("text")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

CASES: Mapping[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    **{f"{family}-tied": (family, {"tie": True}) for family in FAMILIES},
    **{f"{family}-sharded": (family, {"sharded": True}) for family in FAMILIES},
    "mistral-window": ("mistral", {"sliding_window": 9}),
    "qwen2-window": ("qwen2", {"sliding_window": 11}),
    "qwen3-window-tied": ("qwen3", {"sliding_window": 17, "tie": True}),
    "llama-linear": ("llama", {"rope": {"rope_type": "linear", "factor": 2.5}}),
    "llama-llama3": ("llama", {"rope": LLAMA3}),
    "llama-yarn": ("llama", {"rope": YARN}),
    "qwen2-yarn": ("qwen2", {"rope": YARN}),
    "qwen3-yarn-window": ("qwen3", {"rope": YARN, "sliding_window": 13}),
    "llama-biases": ("llama", {"attention_bias": True}),
    "qwen3-biases": ("qwen3", {"attention_bias": True}),
    "llama-one-kv-head": ("llama", {"num_key_value_heads": 1}),
    "llama-no-groups": ("llama", {"num_key_value_heads": 4}),
    "qwen3-wide-heads": ("qwen3", {"head_dim": 48}),
}


@pytest.mark.parametrize("case", CASES)
def test_tokens_and_logits_equal_transformers(tmp_path: Path, case: str) -> None:
    family, settings = CASES[case]
    folder = write_checkpoint(tmp_path / "model", family, **settings)
    prompt = random_tokens(random.Random(case), NUM_PROMPT)
    wanted_tokens, wanted_logits = by_transformers(folder, prompt)

    model = Model.load(folder, "float32")
    tokens, logits = by_steps(model, prompt, is_compiled=True)
    assert tokens == wanted_tokens
    assert (logits - wanted_logits).abs().max() < 1e-4

    layer_by_layer = by_steps(model, prompt, is_compiled=False)
    assert layer_by_layer[0] == tokens
    assert same_bits(layer_by_layer[1], logits)


@pytest.mark.parametrize("case", ["llama", "mistral-window", "qwen2-yarn", "qwen3-window-tied"])
def test_bfloat16_runs_both_ways_with_the_same_bits(tmp_path: Path, case: str) -> None:
    family, settings = CASES[case]
    folder = write_checkpoint(tmp_path / "model", family, dtype="bfloat16", **settings)
    prompt = random_tokens(random.Random(case), NUM_PROMPT)
    model = Model.load(folder, "bfloat16")
    tokens, logits = by_steps(model, prompt, is_compiled=True)
    layer_by_layer = by_steps(model, prompt, is_compiled=False)
    assert layer_by_layer[0] == tokens
    assert same_bits(layer_by_layer[1], logits)

    # Bfloat16 has 8 bits, and the random model amplifies: near the float32 logits, and far from those of another text.
    exact = Model.load(folder, "float32")
    expected = by_steps(exact, prompt, is_compiled=True, forced=tokens)[1]
    shifted = by_steps(exact, prompt[::-1], is_compiled=True, forced=tokens)[1]
    assert (logits - expected).norm() < 0.1 * expected.norm() < 0.1 * (shifted - expected).norm() * 10


def by_steps(
    model: Model, prompt: list[int], *, is_compiled: bool, forced: list[int] | None = None
) -> tuple[list[int], torch.Tensor]:
    """New tokens, and the logits [1 + new tokens, vocabulary] of the last prompt token and each new one."""
    engine = model.engine(is_compiled=is_compiled)
    engine.open(NAME, prompt, GREEDY)
    if forced is None:
        while len(engine.tokens_of(NAME)) < len(prompt) + NUM_NEW:
            engine.step([Verify(sequence=NAME)])
        forced = list(engine.tokens_of(NAME))[len(prompt) :]
    again = model.engine(is_compiled=is_compiled)
    again.open(NAME, prompt, GREEDY)
    chain = tuple(node(token, index - 1) for index, token in enumerate(forced))
    result, (logits,) = step_with_logits(again, [Verify(sequence=NAME, nodes=chain)])
    assert isinstance(result.outcomes[0], Verdict)
    return forced, logits


def by_transformers(folder: Path, prompt: list[int]) -> tuple[list[int], torch.Tensor]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        found = model.generate(
            torch.tensor([prompt]), max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=None, pad_token_id=2
        )
        logits = model(found).logits[0, NUM_PROMPT - 1 :]
    return found[0, NUM_PROMPT:].tolist(), logits
