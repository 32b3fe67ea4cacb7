"""Attention of long prompts by FlashInfer, for engines that need not be deterministic.

FlashInfer reads the paged cache as it lies on a GPU: pages of sixteen tokens, heads before tokens ("HND"). It chooses
its order of sums by the sizes of a batch, so a row's bits depend on the batch, and a text on who else was served:
nothing here is used unless somebody asks for it. Trees and short steps stay with attention.py.
"""

from __future__ import annotations

from typing import Any

import torch

from kernels.paged import BLOCK_TOKENS, KVCache, Rows
from kernels.pinned import to_device

__all__ = ["HEAD_DIMS", "WORKSPACE_BYTES", "PromptAttention"]

HEAD_DIMS = (64, 128, 256)
"""Those that FlashInfer has kernels for."""
WORKSPACE_BYTES = 128 * 2**20
"""Of the GPU's memory; what its documentation recommends."""
_LEAST_ROWS_OF_A_RUN = 16


class PromptAttention:
    """FlashInfer's batch prefill over one cache. A step is planned once for all layers of one window.

    It reads sixteen rows that follow each other in a text, and leaves fifteen to attention.py:

    >>> from types import SimpleNamespace
    >>> prompts = PromptAttention(SimpleNamespace(BatchPrefillWithPagedKVCacheWrapper=None), "cpu")
    >>> for n in (15, 16):
    ...     row_numbers = list(range(n))
    ...     prompts.reads(Rows.from_lists(positions=row_numbers, write_slots=row_numbers,
    ...                                   num_in_table=list(range(1, n + 1)), table_offsets=[0] * n, tables=[0],
    ...                                   tail_offsets=[0] * (n + 1), tail_slots=[]))
    False
    True
    """

    def __init__(
        self,
        flashinfer: Any,  # the package, which only machines with a GPU have
        device: torch.device | str,
    ) -> None:
        self._wrapper_class = flashinfer.BatchPrefillWithPagedKVCacheWrapper
        self._workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        self._wrappers: dict[int, Any] = {}
        self._planned: dict[int, Rows] = {}

    def reads(self, rows: Rows) -> bool:
        """Whether a step is prompts for the most part: rows that follow each other in their texts, and no trees."""
        runs = rows.runs()
        return bool(runs) and rows.count >= _LEAST_ROWS_OF_A_RUN * len(runs)

    def __call__(
        self,
        queries: torch.Tensor,  # [rows, heads * head_dim] in the cache's type
        rows: Rows,
        cache: KVCache,
        layer: int,
        *,
        window: int,
    ) -> torch.Tensor:
        """Attention of the rows, [rows, heads * head_dim]."""
        heads = queries.view(rows.count, -1, cache.head_dim)
        if self._planned.get(window) is not rows:
            self._plan(rows, cache, heads.shape[1], window)
        keys = cache.keys[layer].squeeze(2)  # one whole key after another: [blocks, kv_heads, 16, head_dim]
        attended: torch.Tensor = self._wrappers[window].run(heads, (keys, cache.values[layer]))
        return attended.reshape(queries.shape)

    def _plan(self, rows: Rows, cache: KVCache, num_heads: int, window: int) -> None:
        runs, tables = rows.runs(), rows.host[5 * rows.count + 1 :]
        pages = [tables[run.table : run.table + run.num_blocks] for run in runs]
        first_rows, first_pages = [0], [0]
        for run in runs:
            first_rows.append(first_rows[-1] + run.count)
            first_pages.append(first_pages[-1] + run.num_blocks)
        if window not in self._wrappers:
            self._wrappers[window] = self._wrapper_class(self._workspace, "HND")
        self._wrappers[window].plan(
            torch.tensor(first_rows, dtype=torch.int32),
            torch.tensor(first_pages, dtype=torch.int32),
            to_device(torch.cat(pages), cache.keys.device),
            torch.tensor([run.num_keys - BLOCK_TOKENS * (run.num_blocks - 1) for run in runs], dtype=torch.int32),
            num_heads,
            cache.num_kv_heads,
            cache.head_dim,
            BLOCK_TOKENS,
            causal=True,
            sm_scale=cache.head_dim**-0.5,
            window_left=window - 1 if window > 0 else -1,
            q_data_type=cache.dtype,
            kv_data_type=cache.dtype,
        )
        self._planned[window] = rows
