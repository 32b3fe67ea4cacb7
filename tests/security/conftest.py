"""Certificates of an authority that a fleet trusts, and of one that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.security.certificates import make


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="session")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("theirs"))
