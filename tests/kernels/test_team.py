"""The team of threads behind the CPU library: many callers, a forked child, and teams of changing size."""

from __future__ import annotations

import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kernels import native
from kernels.linear import Linear
from tests.kernels.rig import normal, require_library, same_bits

FORK_TIMEOUT_S = 30


def test_callers_on_several_threads_do_not_disturb_each_other() -> None:
    """Two engines in one process: each with its own number of threads, both at once."""
    require_library()
    layer = Linear(normal(300, 128, seed=0))
    inputs = [normal(5 + i, 128, seed=i) for i in range(3)]
    expected = [layer(x) for x in inputs]

    def work(which: int) -> bool:
        with native.use_threads(1 + which):
            return all(same_bits(layer(inputs[which]), expected[which]) for _ in range(200))

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(work, range(3)))
    assert native.num_threads() == 1


def test_the_number_of_threads_is_restored_and_may_change_at_every_call() -> None:
    require_library()
    layer, x = Linear(normal(300, 64, seed=0)), normal(9, 64, seed=1)
    expected = layer(x)
    for num_threads in (1, 3, 2, 4, 1, 4, 2):
        with native.use_threads(num_threads):
            assert native.num_threads() == num_threads
            assert same_bits(layer(x), expected)
    assert native.num_threads() == 1


def test_no_threads_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one thread, got 0"), native.use_threads(0):
        pass
    assert native.num_threads() == 1


def test_more_threads_than_work_is_no_matter() -> None:
    require_library()
    layer, x = Linear(normal(3, 4, seed=0)), normal(1, 4, seed=1)
    expected = layer(x)
    with native.use_threads(5):
        assert same_bits(layer(x), expected)
        assert layer(torch.empty(0, 4)).shape == (0, 3)


def test_a_forked_child_gets_a_team_of_its_own() -> None:
    """The helpers stay in the parent: a child that waited for them would wait for ever."""
    require_library()
    layer, x = Linear(normal(300, 64, seed=0)), normal(9, 64, seed=1)
    with native.use_threads(2), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks with threads; this is one
        expected = layer(x)
        child = os.fork()
        if child == 0:
            os._exit(0 if same_bits(layer(x), expected) else 1)
        deadline = time.monotonic() + FORK_TIMEOUT_S
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        if ended[0] == 0:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert ended == (child, 0), "the child hung or had other bits"
        assert same_bits(layer(x), expected)
