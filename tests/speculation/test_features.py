"""Prompt features: the same everywhere, near for prompts of a kind, quick, and garbage refused."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidArgument
from speculation.features import prompt_features
from tests.speculation.domains import Domains

REPOSITORY = Path(__file__).parents[2]


@given(st.lists(st.integers(0, 2**31 - 1), max_size=60), st.integers(1, 300))
def test_length_is_one_or_zero(tokens: list[int], num_features: int) -> None:
    features = prompt_features(tokens, num_features=num_features)
    assert features.shape == (num_features,)
    length = float(np.linalg.norm(features))
    assert length == pytest.approx(1.0) or length == 0.0


def test_another_process_finds_the_same() -> None:
    program = "from speculation.features import prompt_features as f; print(f([3, 1, 4, 1, 5]).tolist())"
    environment = {"PYTHONHASHSEED": "77", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=REPOSITORY
    )
    assert result.stdout.strip() == str(prompt_features([3, 1, 4, 1, 5]).tolist())


def test_prompts_of_a_kind_are_nearer_than_others() -> None:
    domains = Domains(num_domains=2, seed=1)
    one, other = ([prompt_features(domains.prompt(domain)) for _ in range(20)] for domain in range(2))
    same = [float(a @ b) for a in one for b in one if a is not b]
    different = [float(a @ b) for a in one for b in other]
    assert sum(same) / len(same) > sum(different) / len(different) + 0.05


def test_order_matters_and_bytes_are_tokens() -> None:
    assert not np.array_equal(prompt_features([1, 2, 3]), prompt_features([3, 2, 1]))
    assert np.array_equal(prompt_features(b"abc"), prompt_features([97, 98, 99]))


@pytest.mark.parametrize("tokens", [[-1], [2**31], [2**70], [1.5, None]])
def test_no_token_ids_are_refused(tokens: list[int]) -> None:
    with pytest.raises(InvalidArgument):
        prompt_features(tokens)


def test_a_prompt_costs_little() -> None:
    tokens = [random.Random(2).randrange(32_000) for _ in range(500)]
    fastest = min(_cpu_s(tokens) for _ in range(20))
    assert fastest < 0.0015  # five times what is asked for (0.3 ms), for slow and busy machines


def _cpu_s(tokens: list[int]) -> float:
    start = time.process_time()
    prompt_features(tokens)
    return time.process_time() - start
