"""Before the first request on a GPU: kernels are compiled and common steps captured, so that no request waits for it.

What is not common is met later: a shape's first step runs kernel by kernel, its second is captured.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from contracts.types import SamplingParams, SequenceId
from engine.checks import Limits
from engine.engine import Engine
from engine.work import Verify
from kernels.paged import BLOCK_TOKENS, Rows

__all__ = ["common_steps", "made_up_step", "warm_up"]

_NAME = SequenceId("warm-up")
_TOKENS = (1,)
_NUM_KEYS = (4096, 2048, 1024, 512)  # the largest first: memory that it took is enough for the others
_BATCHES = (64, 32, 16, 8, 4, 2, 1)
_TREES = (32, 16, 8, 4, 2)
# Each makes the sampler's kernels take another way.
_SAMPLINGS = (
    SamplingParams(),
    SamplingParams(temperature=0.8),
    SamplingParams(temperature=0.8, top_k=40, top_p=0.9, min_p=0.01),
    SamplingParams(temperature=0.8, repetition_penalty=1.1, num_logprobs=1),
    SamplingParams(temperature=0.8, top_p=0.9, repetition_penalty=1.1),
    SamplingParams(allowed_token_ids=_TOKENS),
)


def warm_up(engine: Engine) -> None:
    """The engine must be new: what is captured is run, and writes over its cache."""
    for sampling in _SAMPLINGS:
        engine.open(_NAME, _TOKENS, sampling)
        engine.step([Verify(sequence=_NAME)])
        engine.close(_NAME)
    engine.executor.warm_up(common_steps(engine.limits))


def common_steps(limits: Limits) -> Iterator[tuple[torch.Tensor, Rows, torch.Tensor]]:
    """Decoding of several sequences, and a single one's tree, with texts of some lengths: tokens, rows, chosen."""
    for num_keys in dict.fromkeys(min(count, limits.max_context) for count in _NUM_KEYS):
        for num_sequences, rows_each in [*((count, 1) for count in _BATCHES), *((1, count) for count in _TREES)]:
            if rows_each <= num_keys and num_sequences * rows_each <= limits.max_batch_rows:
                yield made_up_step(num_sequences, rows_each, num_keys)


def made_up_step(num_sequences: int, rows_each: int, num_keys: int) -> tuple[torch.Tensor, Rows, torch.Tensor]:
    """The last rows of texts that all lie in the cache's first block, over and over; they write to its first slot."""
    num_rows, num_blocks = num_sequences * rows_each, -(-num_keys // BLOCK_TOKENS)
    positions = list(range(num_keys - rows_each, num_keys)) * num_sequences
    rows = Rows.from_lists(
        positions=positions,
        write_slots=[0] * num_rows,
        num_in_table=[position + 1 for position in positions],
        table_offsets=[row // rows_each * num_blocks for row in range(num_rows)],
        tables=[0] * (num_blocks * num_sequences),
        tail_offsets=[0] * (num_rows + 1),
        tail_slots=[],
    )
    return torch.ones(num_rows, dtype=torch.int64), rows, torch.arange(num_rows, dtype=torch.int32)
