"""How one model is divided over tensor-parallel ranks: all the arithmetic, checked in one place."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.errors import TopologyError
from engine.model_config import ModelConfig

__all__ = ["Shard"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One rank's part of a model. Heads and MLP columns divide evenly; vocabulary shards may differ by one."""

    config: ModelConfig
    rank: int
    num_ranks: int

    def __post_init__(self) -> None:
        if self.num_ranks < 1 or not 0 <= self.rank < self.num_ranks:
            raise TopologyError(f"rank {self.rank} of {self.num_ranks} ranks is impossible; ranks count from 0")
        sizes = {
            "num_heads": self.config.num_heads,
            "num_kv_heads": self.config.num_kv_heads,
            "mlp_size": self.config.mlp_size,
        }
        uneven = {name: size for name, size in sizes.items() if size % self.num_ranks}
        if uneven or self.config.vocab_size < self.num_ranks:
            listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
            possible = [n for n in range(1, 65) if all(size % n == 0 for size in sizes.values())]
            raise TopologyError(
                f"the model ({listed}, vocab_size {self.config.vocab_size}) does not divide over {self.num_ranks} "
                f"ranks because of {', '.join(uneven) or 'vocab_size'}; possible numbers of ranks: {possible}"
            )

    @property
    def num_heads(self) -> int:
        return self.config.num_heads // self.num_ranks

    @property
    def num_kv_heads(self) -> int:
        return self.config.num_kv_heads // self.num_ranks

    @property
    def mlp_size(self) -> int:
        return self.config.mlp_size // self.num_ranks

    @property
    def heads(self) -> slice:
        """Rows of the query projection, and columns of the output projection."""
        return self._part(self.config.q_size)

    @property
    def kv_heads(self) -> slice:
        """Rows of the key and of the value projection."""
        return self._part(self.config.kv_size)

    @property
    def mlp(self) -> slice:
        """Rows of the gate and up projections, and columns of the down projection."""
        return self._part(self.config.mlp_size)

    @property
    def vocabulary(self) -> slice:
        """Token ids whose embedding rows and logits this rank holds."""
        return self._part(self.config.vocab_size)

    def _part(self, size: int) -> slice:
        return slice(size * self.rank // self.num_ranks, size * (self.rank + 1) // self.num_ranks)
