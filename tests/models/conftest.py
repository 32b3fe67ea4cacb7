"""A tiny family, made once per run: the real parts at a size that takes a second."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from models import python_domain
from models.hf_folder import export
from models.tokenizer import train_tokenizer
from tests.models.tiny_family import VOCAB_SIZE, lively_network, write_corpus


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, so that runs can be compared bit by bit; and tests that run side by side do not crowd."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def small_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A part of the real standard library, so that reading it takes no time."""
    root, folder = python_domain.library_root(), tmp_path_factory.mktemp("library")
    for package in ("email", "json", "logging", "http"):
        shutil.copytree(root / package, folder / package)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(python_domain, "library_root", lambda: folder)
        yield


@pytest.fixture(scope="session")
def corpus(small_library: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def tokenizer(corpus: Path) -> Tokenizer:
    return train_tokenizer(corpus, vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    path = tmp_path_factory.mktemp("family") / "tiny"
    export(lively_network(3), tokenizer, path, card="# tiny\n")
    return path
