"""Cuts training rows from the encoded corpus: domains by weight, and within a domain every window once before any
twice. A window moves to where a document begins, so a part of it may be read twice in an epoch, and some of it not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contracts.errors import CheckpointError, InvalidArgument
from models.tokens import TokenFile, load_tokens


@dataclass(frozen=True, kw_only=True)
class Batch:
    tokens: Tensor  # [rows, length] int64
    targets: Tensor  # [rows, length] int64: the token after each
    weights: Tensor  # [rows, length] float32 in 0..1: what predicting each target is worth


class RowSampler:
    """Seeded and resumable: its state is how many rows every domain has given so far."""

    def __init__(self, folder: Path, domain_weights: Mapping[str, float], *, length: int, seed: int) -> None:
        if not domain_weights or min(domain_weights.values()) <= 0:
            raise InvalidArgument(f"domain weights are {domain_weights}; every weight must be greater than 0")
        self.files = {domain: load_tokens(folder, domain, "train") for domain in domain_weights}
        short = [domain for domain, file in self.files.items() if file.num_tokens <= length + 1]
        if short:
            raise InvalidArgument(
                f"domains {', '.join(short)} hold fewer than {length + 2} tokens; give more text or shorter rows"
            )
        self.shares = np.array(list(domain_weights.values())) / sum(domain_weights.values())
        self.length = length
        self.seed = seed
        self.num_given = dict.fromkeys(domain_weights, 0)
        self._orders: dict[str, tuple[int, np.ndarray]] = {}

    def batch(self, num_rows: int) -> Batch:
        return stack_rows([self._next_row() for _ in range(num_rows)])

    def _next_row(self) -> tuple[np.ndarray, np.ndarray]:
        # The domain furthest behind its share: exact shares without any randomness.
        given = np.array(list(self.num_given.values()))
        domain = list(self.num_given)[int(np.argmax(self.shares * (given.sum() + 1) - given))]
        index = self.num_given[domain]
        self.num_given[domain] += 1
        return self.row(domain, index)

    def row(self, domain: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The `index`-th row that `domain` gives in its whole training."""
        file = self.files[domain]
        num_windows = max(1, file.num_tokens // self.length)
        epoch, place = divmod(index, num_windows)
        generator = np.random.default_rng([self.seed, epoch, *domain.encode()])
        # Every epoch cuts at other places, so that no token is always the first of its row.
        shift = int(generator.integers(self.length))
        if self._orders.get(domain, (-1,))[0] != epoch:
            self._orders[domain] = (epoch, generator.permutation(num_windows))
        offset = int(self._orders[domain][1][place]) * self.length + shift
        return cut_row(file, offset, self.length)

    def state(self) -> dict[str, int]:
        return dict(self.num_given)

    def load_state(self, state: dict[str, int]) -> None:
        if set(state) != set(self.num_given):
            raise CheckpointError(
                f"checkpoint has rows of {sorted(state)}, this run samples {sorted(self.num_given)}; "
                "resume with the same domains"
            )
        self.num_given = {domain: int(state[domain]) for domain in self.num_given}


def cut_row(file: TokenFile, offset: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """`length` + 1 tokens near `offset`, from the start of a document unless that start is far back in a long one."""
    start = int(file.starts[np.searchsorted(file.starts, offset, side="right") - 1])
    if offset - start > length // 2:
        start = offset
    start = min(start, file.num_tokens - length - 1)
    return file.tokens[start : start + length + 1], file.weights[start : start + length + 1]


def stack_rows(rows: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
    tokens = torch.from_numpy(np.stack([row[0] for row in rows]).astype(np.int64))
    weights = torch.from_numpy(np.stack([row[1] for row in rows]).astype(np.float32) / 100)
    return Batch(tokens=tokens[:, :-1], targets=tokens[:, 1:], weights=weights[:, 1:])


def validation_batch(folder: Path, domain: str, *, length: int, num_rows: int) -> Batch:
    """Evenly spaced rows of the valid split, always the same ones."""
    file = load_tokens(folder, domain, "valid")
    if file.num_tokens <= length + 1:
        raise InvalidArgument(
            f"valid split of {domain} holds {file.num_tokens} tokens; it needs more than {length + 1}"
        )
    offsets = np.linspace(0, file.num_tokens - length - 2, num_rows).astype(int)
    return stack_rows([cut_row(file, int(offset), length) for offset in offsets])
