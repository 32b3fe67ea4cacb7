"""The encoded corpus: per domain and split three memory-mapped arrays: token ids, loss weights, and where documents
start."""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from contracts.errors import CheckpointError
from models.chat import Document, pieces
from models.corpus import documents, records
from models.files import atomic_write_with


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    tokens: NDArray[np.uint16]  # [num_tokens]
    weights: NDArray[np.uint8]  # [num_tokens], hundredths
    starts: NDArray[np.int64]  # [num_documents], ascending

    @property
    def num_tokens(self) -> int:
        return int(self.tokens.shape[0])


def encode_split(corpus: Path, tokenizer: Tokenizer, domain: str, split: str, folder: Path, seed: int) -> None:
    """Encodes all documents in shuffled order, so that rows cut from the stream mix records from all over the
    domain."""
    found = [document for record in records(corpus, domain, split) for document in documents(record)]
    Random(f"{seed}/{domain}/{split}").shuffle(found)
    tokens: list[NDArray[np.uint16]] = []
    weights: list[NDArray[np.uint8]] = []
    for document in found:
        ids, document_weights = encode_document(tokenizer, document)
        tokens.append(ids)
        weights.append(document_weights)
    starts = np.cumsum([0, *(len(ids) for ids in tokens)], dtype=np.int64)[:-1]
    # The token ids are written last: their presence says that the other two are there.
    for name, array in (("weights", np.concatenate(weights)), ("starts", starts), ("tokens", np.concatenate(tokens))):
        save_array(array_path(folder, domain, split, name), array)


def encode_document(tokenizer: Tokenizer, document: Document) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    ids: list[int] = []
    weights: list[int] = []
    for piece in pieces(document):
        encoded = tokenizer.encode(piece.text, add_special_tokens=False).ids
        ids.extend(encoded)
        weights.extend([piece.weight] * len(encoded))
    return np.array(ids, dtype=np.uint16), np.array(weights, dtype=np.uint8)


def array_path(folder: Path, domain: str, split: str, name: str) -> Path:
    return folder / f"{domain}.{split}.{name}.npy"


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as out:
            np.save(out, array)

    atomic_write_with(path, write)


def is_encoded(folder: Path, domain: str, split: str) -> bool:
    return array_path(folder, domain, split, "tokens").is_file()


def load_tokens(folder: Path, domain: str, split: str) -> TokenFile:
    def load(name: str) -> Any:
        path = array_path(folder, domain, split, name)
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(
                f"{path} is no token file: {error}; delete the folder to encode the corpus again"
            ) from error

    tokens, weights, starts = load("tokens"), load("weights"), load("starts")
    if tokens.shape != weights.shape or tokens.dtype != np.uint16:
        raise CheckpointError(
            f"token files of {domain}.{split} in {folder} disagree: {tokens.shape} tokens of {tokens.dtype} and "
            f"{weights.shape} weights; delete the folder to encode the corpus again"
        )
    return TokenFile(tokens=tokens, weights=weights, starts=starts)
