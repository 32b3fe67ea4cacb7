"""Moves that are joined leave the cache as moves one group after another do."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.copies import moves
from kernels.paged import KVCache

SLOTS = st.integers(0, 31)
GROUPS = st.lists(st.lists(st.tuples(SLOTS, SLOTS), min_size=1, max_size=5, unique_by=lambda pair: pair[1]), max_size=6)


def cache_of_slot_numbers() -> KVCache:
    cache = KVCache(num_layers=1, num_blocks=2, num_kv_heads=1, head_dim=1, dtype=torch.float32)
    numbers = torch.arange(32.0).view(32, 1, 1)
    cache.write(0, torch.arange(32), numbers, -numbers)
    return cache


@given(GROUPS)
def test_joined_groups_do_what_they_do_one_by_one(groups: list[list[tuple[int, int]]]) -> None:
    joined, one_by_one = cache_of_slot_numbers(), cache_of_slot_numbers()
    flat: list[int] = []
    for group in groups:
        sources, targets = ([pair[side] for pair in group] for side in (0, 1))
        one_by_one.copy(torch.tensor(sources), torch.tensor(targets))
        flat += [len(group), *sources, *targets]
    for sources_there, targets_there in moves(np.array(flat, dtype=np.int64)):
        joined.copy(sources_there, targets_there)
    for found, expected in zip(joined.read(0, torch.arange(32)), one_by_one.read(0, torch.arange(32)), strict=True):
        assert torch.equal(found, expected)


def test_groups_of_different_sequences_are_one_move() -> None:
    groups = [number for first in range(0, 640, 10) for number in (2, first, first + 1, first + 5, first + 6)]
    ((sources, targets),) = moves(np.array(groups, dtype=np.int64))
    assert sources.shape == targets.shape == (128,)


def test_nothing_to_move_is_no_move() -> None:
    assert list(moves(np.zeros(0, dtype=np.int64))) == []
