"""Models that the engine's tests share; written once, for writing and loading takes longer than most tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.engine.checkpoints import write_checkpoint
from tests.engine.rig import Model

ModelMaker = Callable[..., Model]


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 with a sliding window in one of its two layers and an inner size of more than 1024."""
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    sizes: dict[str, Any] = {"intermediate_size": 1100, "num_hidden_layers": 2, "max_position_embeddings": 2048}
    return write_checkpoint(folder, "qwen3", sliding_window=23, **sizes)


@pytest.fixture(scope="session")
def model_of(checkpoint_folder: Path) -> ModelMaker:
    """The model in a type ("float32", "bfloat16"), packed or for the references alone."""

    @cache
    def load(dtype: str, is_reference: bool = False) -> Model:
        return Model.load(checkpoint_folder, dtype, is_reference=is_reference)

    return load


@pytest.fixture(scope="session")
def model(model_of: ModelMaker) -> Model:
    return model_of("float32")
