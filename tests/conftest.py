"""Settings that every test shares: deterministic, quick, and never on a network."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

_TESTS = Path(__file__).parent

# Before anything imports huggingface_hub, which reads it once: a test that reaches for the hub fails at once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before anything imports Triton, which declares its kernels by it: they run in its interpreter, with or without a GPU.
os.environ["TRITON_INTERPRET"] = "1"

# Shells let background commands ignore Ctrl-C, and whatever those start ignores it too: tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every run, so that a failure on one machine is a failure on all; no deadline per example,
# because a busy machine is not a bug.
settings.register_profile("house", derandomize=True, deadline=None, database=None)
settings.load_profile("house")

# Files of these wait for processes, minutes some of them: whoever works through the files two at a time begins with
# them, or one would be left with the last while the other has nothing to do. (pytest-xdist keeps the order where it is
# told --no-loadscope-reorder.)
_FIRST = ("cluster", "recovery", "service", "models", "docs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow rooms first; within them, all stays as it was found."""
    rank = {room: number for number, room in enumerate(_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(_TESTS).parts[0], len(rank)))
