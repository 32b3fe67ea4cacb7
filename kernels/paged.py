"""The paged key-value cache, and the rows of a step as every kernel sees them.

Blocks hold sixteen tokens; a slot is `block * 16 + lane`. The layout is that of native/src/paged.h:

    keys   [layers, blocks, kv_heads, head_dim / w, 16, w]   w = 1 for float32, 2 for bfloat16; head_dim on a GPU
    values [layers, blocks, kv_heads, 16, head_dim]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from kernels import gpu
from kernels.checks import is_trusting
from kernels.native import signatures
from kernels.native.memory import large_empty
from kernels.pinned import to_device
from kernels.tiles import Tiles, plan_tiles

__all__ = ["BLOCK_TOKENS", "KVCache", "PromptReader", "Rows", "Run"]

BLOCK_TOKENS = 16


class KVCache:
    """Keys and values of all layers of one rank.

    >>> cache = KVCache(num_layers=1, num_blocks=1, num_kv_heads=1, head_dim=2, dtype=torch.float32)
    >>> cache.write(0, torch.tensor([3]), torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[5.0, 6.0]]]))
    >>> cache.copy(torch.tensor([3]), torch.tensor([0]))
    >>> cache.read(0, torch.tensor([0]))
    (tensor([[[1., 2.]]]), tensor([[[5., 6.]]]))
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_blocks: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: str = "cpu",
        key_width: int | None = None,  # elements of a key that lie side by side; None: what the device reads best
    ) -> None:
        # A GPU's program reads whole keys; the CPU's takes one or two elements of sixteen keys at once.
        width = key_width or (4 // dtype.itemsize if device == "cpu" else head_dim)
        if head_dim % width != 0:
            raise ValueError(f"head_dim {head_dim} is not a multiple of {width}, as {dtype} keys need")
        self.key_width = width
        self.prompts: PromptReader | None = None
        """Another way to read prompts, for engines that need not be deterministic."""
        self.num_layers, self.num_blocks = num_layers, num_blocks
        self.num_kv_heads, self.head_dim, self.dtype = num_kv_heads, head_dim, dtype
        blocks = (num_layers, num_blocks, num_kv_heads)
        self.keys = _empty((*blocks, head_dim // width, BLOCK_TOKENS, width), dtype, device)
        self.values = _empty((*blocks, BLOCK_TOKENS, head_dim), dtype, device)
        layers = zip(self.keys, self.values, strict=True)
        self.addresses = [(keys.data_ptr(), values.data_ptr()) for keys, values in layers]
        """Where each layer's keys and values begin: taking a layer out of a tensor takes longer than a short step."""

    @staticmethod
    def bytes_per_block(*, num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        """Memory that one block takes over all layers, keys and values together."""
        return 2 * num_layers * num_kv_heads * head_dim * BLOCK_TOKENS * dtype.itemsize

    def read(
        self,
        layer: int,
        slots: torch.Tensor,  # [n] integers
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [n, kv_heads, head_dim] of the slots."""
        block, lane = slots.long() // BLOCK_TOKENS, slots.long() % BLOCK_TOKENS
        keys = self.keys[layer][block, :, :, lane, :].flatten(2)
        return keys, self.values[layer][block, :, lane]

    def write(
        self,
        layer: int,
        slots: torch.Tensor,  # [n] integers
        keys: torch.Tensor,  # [n, kv_heads, head_dim]
        values: torch.Tensor,  # [n, kv_heads, head_dim]
    ) -> None:
        """Puts keys and values into the slots."""
        block, lane = slots.long() // BLOCK_TOKENS, slots.long() % BLOCK_TOKENS
        self.keys[layer][block, :, :, lane, :] = keys.reshape(*keys.shape[:2], *self.keys.shape[3::2])
        self.values[layer][block, :, lane] = values

    def copy(
        self,
        sources: torch.Tensor,  # [n] integers
        targets: torch.Tensor,  # [n] integers
    ) -> None:
        """Copies whole tokens between slots, in all layers; all sources are read before any target is written."""
        if sources.shape != targets.shape or sources.dim() != 1:
            raise ValueError(
                f"sources and targets must be [n] both, got {tuple(sources.shape)} and {tuple(targets.shape)}"
            )
        if gpu.runs(self.keys):
            from kernels.gpu.paged import copy_slots

            from_there, to_there = to_device(torch.stack([sources, targets]), self.keys.device)
            copy_slots(self.keys, self.values, from_there, to_there)
            return
        from_block, from_lane = sources.long() // BLOCK_TOKENS, sources.long() % BLOCK_TOKENS
        to_block, to_lane = targets.long() // BLOCK_TOKENS, targets.long() % BLOCK_TOKENS
        self.keys[:, to_block, :, :, to_lane, :] = self.keys[:, from_block, :, :, from_lane, :]
        self.values[:, to_block, :, to_lane] = self.values[:, from_block, :, from_lane]


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    return large_empty(shape, dtype) if device == "cpu" else torch.empty(shape, dtype=dtype, device=device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Rows that follow each other in one text, and see its keys through its block table alone."""

    count: int
    num_keys: int  # of the last row, itself included
    table: int  # where the table begins

    @property
    def num_blocks(self) -> int:
        """Blocks that the keys lie in."""
        return -(-self.num_keys // BLOCK_TOKENS)


class Rows:
    """All rows of a step: where each stands, where its key goes, and where its keys lie in logical order.

    A row at position p sees p + 1 keys: the first `num_in_table` through its sequence's block table, the rest (tree
    ancestors that do not lie in order, itself last) through its tail slots. One flat int32 buffer holds everything,
    so that a step crosses to other ranks or to a device as one piece:

        positions [n], write_slots [n], num_in_table [n], table_offsets [n], tail_offsets [n + 1], tables, tail_slots
    """

    def __init__(
        self,
        flat: torch.Tensor,  # int32, laid out as above
        count: int,
        num_table_entries: int,
    ) -> None:
        self.flat, self.count, self.num_table_entries = flat, count, num_table_entries
        self._host: torch.Tensor | None = flat if flat.device.type == "cpu" else None
        self._native: signatures.Rows | None = None
        self._tiles: dict[int, Tiles] = {}
        self._runs: list[Run] | None = None
        self._changes_in_place = False
        self._fits: set[tuple[object, ...]] = set()

    def is_known_to_fit(self, into: tuple[object, ...]) -> bool:
        """Whether there is nothing to look at: a layer need not look at what another has looked at."""
        return is_trusting() or self.count == 0 or into in self._fits

    def note_fit(self, into: tuple[object, ...]) -> None:
        """Somebody looked, and the numbers fit."""
        self._fits.add(into)

    @staticmethod
    def from_lists(
        *,
        positions: list[int],
        write_slots: list[int],
        num_in_table: list[int],
        table_offsets: list[int],
        tables: list[int],
        tail_offsets: list[int],
        tail_slots: list[int],
    ) -> Rows:
        """Rows from plain lists; the engine fills the flat buffer itself, this is for tests and tools."""
        flat = positions + write_slots + num_in_table + table_offsets + tail_offsets + tables + tail_slots
        return Rows(torch.tensor(flat, dtype=torch.int32), len(positions), len(tables))

    def to(self, device: torch.device) -> Rows:
        """The same rows there, with their numbers still at hand here."""
        if device == self.flat.device:
            return self
        moved = Rows(to_device(self.flat, device), self.count, self.num_table_entries)
        moved._host = self.host
        return moved

    @property
    def host(self) -> torch.Tensor:
        """`flat` on the CPU."""
        if self._host is None:
            self._host = self.flat.cpu()
        return self._host

    @property
    def positions(self) -> torch.Tensor:
        """[count]"""
        return self.flat[: self.count]

    @property
    def write_slots(self) -> torch.Tensor:
        """[count]"""
        return self.flat[self.count : 2 * self.count]

    @property
    def num_in_table(self) -> torch.Tensor:
        """[count]"""
        return self.flat[2 * self.count : 3 * self.count]

    @property
    def table_offsets(self) -> torch.Tensor:
        """[count]"""
        return self.flat[3 * self.count : 4 * self.count]

    @property
    def tables(self) -> torch.Tensor:
        """[num_table_entries]"""
        return self.flat[5 * self.count + 1 : 5 * self.count + 1 + self.num_table_entries]

    def tiles(self, *, rows_per_tile: int) -> Tiles:
        """The rows in tiles, planned once for all layers."""
        if rows_per_tile not in self._tiles:
            n, numbers = self.count, self.host.tolist()
            self._tiles[rows_per_tile] = plan_tiles(
                numbers[:n],
                numbers[2 * n : 3 * n],
                numbers[3 * n : 4 * n],
                numbers[4 * n : 5 * n + 1],
                numbers[5 * n + 1 + self.num_table_entries :],
                rows_per_tile=rows_per_tile,
                device=self.flat.device,
            )
        return self._tiles[rows_per_tile]

    def slots_in_order(self, row: int) -> torch.Tensor:
        """Slots of all keys that a row sees, by logical position: [position + 1] int64. For references and tests."""
        n = self.count
        position, in_table, offset = (int(self.flat[i * n + row]) for i in (0, 2, 3))
        first_tail, last_tail = (int(self.flat[4 * n + row + i]) for i in (0, 1))
        tables = 5 * n + 1
        tails = tables + self.num_table_entries
        num_blocks = -(-in_table // BLOCK_TOKENS)
        blocks = self.flat[tables + offset : tables + offset + num_blocks].long()
        lanes = torch.arange(BLOCK_TOKENS, device=self.flat.device)
        ordered = (blocks[:, None] * BLOCK_TOKENS + lanes).flatten()[:in_table]
        slots = torch.cat([ordered, self.flat[tails + first_tail : tails + last_tail].long()])
        if slots.shape[0] != position + 1:
            raise ValueError(f"row {row} at position {position} lists {slots.shape[0]} keys instead of {position + 1}")
        return slots

    def use_tiles(self, rows_per_tile: int, tiles: Tiles) -> None:
        """For rows whose numbers change in place, with tiles that do so too."""
        self._tiles[rows_per_tile] = tiles
        self._changes_in_place = True

    def runs(self) -> list[Run]:
        """The rows as stretches of texts; none where some see a tree, or where the numbers change in place."""
        if self._changes_in_place:
            return []
        if self._runs is None:
            self._runs = self._find_runs()
        return self._runs

    def _find_runs(self) -> list[Run]:
        n, numbers = self.count, self.host[: 4 * self.count].view(4, -1).tolist()
        positions, _, in_table, tables = numbers
        if any(seen != position + 1 for seen, position in zip(in_table, positions, strict=True)):
            return []
        starts = [
            row
            for row in range(n)
            if row == 0 or tables[row] != tables[row - 1] or positions[row] != positions[row - 1] + 1
        ]
        return [
            Run(count=end - start, num_keys=in_table[end - 1], table=tables[start])
            for start, end in zip(starts, [*starts[1:], n], strict=True)
        ]

    def filled_up(self, count: int) -> Rows:
        """The rows on the CPU, the last repeated until there are so many."""
        n, missing = self.count, count - self.count
        if n == 0 or missing < 0:
            raise ValueError(f"{n} rows cannot be filled up to {count}")
        if missing == 0 and self.flat is self.host:
            return self
        tables = 5 * n + 1
        numbers, offsets = self.host[: 4 * n].view(4, n), self.host[4 * n : tables]
        tails = self.host[tables + self.num_table_entries :]
        last_tail = tails[int(offsets[-2]) :]
        more_offsets = offsets[-1] + len(last_tail) * torch.arange(1, missing + 1, dtype=torch.int32)
        parts = [
            torch.cat([numbers, numbers[:, -1:].expand(4, missing)], dim=1).flatten(),
            torch.cat([offsets, more_offsets]),
            self.host[tables : tables + self.num_table_entries],
            tails,
            last_tail.repeat(missing),
        ]
        return Rows(torch.cat(parts), count, self.num_table_entries)

    def select(
        self,
        kept: torch.Tensor,  # [n] int64 on the CPU: row numbers, rising
    ) -> Rows:
        """The rows that stay, in their order, with the tables of all."""
        n, flat = self.count, self.host
        offsets = flat[4 * n : 5 * n + 1].tolist()
        tables = flat[5 * n + 1 : 5 * n + 1 + self.num_table_entries]
        all_tails = flat[5 * n + 1 + self.num_table_entries :]
        tails = [all_tails[offsets[row] : offsets[row + 1]] for row in kept.tolist()]
        new_offsets = torch.tensor([0, *(len(tail) for tail in tails)], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        numbers = [flat[i * n : (i + 1) * n][kept] for i in range(4)]
        joined = torch.cat([*numbers, new_offsets, tables, *tails])
        return Rows(joined, len(tails), self.num_table_entries).to(self.flat.device)

    @property
    def native(self) -> signatures.Rows:
        """The same rows as the C library sees them; valid while this object lives."""
        if self._native is None:
            self._native = self._as_native()
        return self._native

    def _as_native(self) -> signatures.Rows:
        n, base, size = self.count, self.flat.data_ptr(), self.flat.element_size()
        return signatures.Rows(
            n,
            base,
            base + n * size,
            base + 2 * n * size,
            base + 3 * n * size,
            base + (5 * n + 1) * size,
            base + 4 * n * size,
            base + (5 * n + 1 + self.num_table_entries) * size,
        )


class PromptReader(Protocol):
    """A way to compute the attention of prompts; kernels/prompts.py is one."""

    def reads(self, rows: Rows) -> bool:
        """Whether these rows are for it."""
        ...

    def __call__(
        self,
        queries: torch.Tensor,  # [rows, heads * head_dim] in the cache's type
        rows: Rows,
        cache: KVCache,
        layer: int,
        *,
        window: int,
    ) -> torch.Tensor:
        """What attention.py's function gives, in another order of sums."""
        ...
