"""Steps on a GPU as captured graphs: launching a model's few hundred kernels one by one takes longer than running them.

A graph has fixed sizes and reads from fixed places. So a step is filled up to the next of few sizes, its numbers are
copied to where the graph reads them, in one piece, and the graph is replayed. Rows are filled up by repeating the last:
who computes it once more writes the same bits to the same place, and nobody asks for its logits.

A shape that is seen for the first time runs kernel by kernel, for it may never come again; the second time it is
captured. Steps with many rows, or with texts so long that attention takes them in stretches, steps with a look between
layers and groups of several ranks always run kernel by kernel, and so do new shapes once a capture has failed.

All graphs share the memory for what lies between their kernels. They may: one is replayed at a time, and what is wanted
of it, the logits, is copied in its end to a place that no other step writes before they are read.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from engine.model import embed, forward_layers, head_logits
from engine.ranks import Ranks
from engine.weights import Weights
from kernels import gpu
from kernels.paged import BLOCK_TOKENS, KVCache, Rows
from kernels.pinned import pinned_zeros, to_device
from kernels.scratch import SCRATCH_BYTES, scratch_bytes
from kernels.tiles import Tiles, rows_per_tile

__all__ = [
    "MOST_LOGITS_BYTES",
    "MOST_ROWS",
    "Capture",
    "CapturedSteps",
    "StepShape",
    "capture_graph",
    "give_back",
    "shape_of",
]

logger = logging.getLogger(__name__)

MOST_ROWS = 512
"""Above, launches are a small part of a step."""
MOST_LOGITS_BYTES = 256 * 2**20
"""Of one step; 512 rows of a vocabulary of 131,072."""
MOST_GRAPHS = 128
"""Each is a few hundred kernels' arguments, on the host and on the device."""
_CAPTURING = threading.Lock()
"""torch waits for the whole device before it captures, which spoils a capture that another thread is at."""
_LEAST_KEYS = 512
_LEAST_TABLE_ENTRIES = 64

Capture = Callable[[Callable[[], torch.Tensor]], tuple[Callable[[], object], torch.Tensor]]
"""From a function to something that does the same again, and the tensor in which its result will lie."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepShape:
    """Everything that is fixed in a graph."""

    num_rows: int
    num_chosen: int
    num_table_entries: int
    num_tiles: int
    num_nodes: int
    longest: int

    @property
    def sizes(self) -> list[int]:
        """Of the parts of a graph's input: tokens, chosen, the three tables of its tiles, and rows, whose block tables
        come last."""
        rows = 5 * self.num_rows + 1 + self.num_table_entries
        words = self.num_rows * self.num_nodes // 32
        return [self.num_rows, self.num_chosen, 3 * self.num_tiles, self.num_tiles * self.num_nodes, words, rows]


def shape_of(rows: Rows, tiles: Tiles, num_chosen: int) -> StepShape:
    """The shape into which a step goes whose rows are filled up already: each size the next power of two.

    There is room for a whole block table in each tile, so that how long the texts are together makes no other shape.
    """
    num_tiles, longest = _power_of_two(tiles.count), _power_of_two(max(tiles.longest, _LEAST_KEYS))
    in_tables = max(rows.num_table_entries, num_tiles * (longest // BLOCK_TOKENS), _LEAST_TABLE_ENTRIES)
    return StepShape(
        num_rows=rows.count,
        num_chosen=_power_of_two(num_chosen),
        num_table_entries=_power_of_two(in_tables),
        num_tiles=num_tiles,
        num_nodes=tiles.num_nodes,
        longest=longest,
    )


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()


class CapturedSteps:
    """Whole steps of one model on one GPU."""

    def __init__(self, weights: Weights, ranks: Ranks, cache: KVCache, *, capture: Capture) -> None:
        self._weights, self._ranks, self._cache, self._capture = weights, ranks, cache, capture
        self._num_heads = weights.shard.num_heads
        self._rows_per_tile = rows_per_tile(self._num_heads // weights.shard.num_kv_heads)
        self._seen: Counter[StepShape] = Counter()
        self._graphs: dict[StepShape, _Graph] = {}
        self._may_capture = True
        vocabulary = weights.head.outputs
        most_chosen = min(MOST_ROWS, MOST_LOGITS_BYTES // (4 * vocabulary))
        self._logits = torch.empty(most_chosen, vocabulary, dtype=torch.float32, device=cache.keys.device)
        self.is_typical = True
        """Whether the last step took as long as its like will: not where it was captured, or will be next time."""

    @staticmethod
    def build(weights: Weights, ranks: Ranks, cache: KVCache) -> CapturedSteps | None:
        """None where nothing can be captured."""
        if not cache.keys.is_cuda or not gpu.runs(cache.keys) or ranks.size > 1:
            return None
        pool = torch.cuda.graph_pool_handle()
        return CapturedSteps(weights, ranks, cache, capture=partial(capture_graph, pool=pool))

    @property
    def num_graphs(self) -> int:
        """How many are held."""
        return len(self._graphs)

    def run(
        self,
        tokens: torch.Tensor,  # [rows] int64 on the CPU
        rows: Rows,
        chosen: torch.Tensor,  # [chosen] int32 on the CPU
    ) -> torch.Tensor:
        """Logits [chosen, vocabulary] float32, valid until the next step."""
        self.is_typical = True
        if not self._is_small(rows, chosen):
            return self._kernel_by_kernel(tokens, rows, chosen)
        filled = rows.filled_up(_power_of_two(rows.count))
        tiles = filled.tiles(rows_per_tile=self._rows_per_tile)
        shape = shape_of(filled, tiles, chosen.shape[0])
        graph = self._graphs.get(shape)
        if graph is None:
            if not self._may_capture or len(self._graphs) == MOST_GRAPHS or not self._fits(shape):
                return self._kernel_by_kernel(tokens, rows, chosen)
            self.is_typical = False
            self._seen[shape] += 1
            if self._seen[shape] == 1:
                return self._kernel_by_kernel(tokens, rows, chosen)
            graph = _Graph(shape, self._cache.keys.device)
        graph.fill(tokens, filled, tiles, chosen)
        if shape not in self._graphs and not self._captured(graph):
            return self._kernel_by_kernel(tokens, rows, chosen)
        graph.replay()
        return graph.logits[: chosen.shape[0]]

    def _is_small(self, rows: Rows, chosen: torch.Tensor) -> bool:
        """Whether so few rows are worth a graph, and are for our own kernels."""
        num_chosen = chosen.shape[0]
        if not 0 < rows.count <= MOST_ROWS or num_chosen == 0 or _power_of_two(num_chosen) > self._logits.shape[0]:
            return False
        return self._cache.prompts is None or not self._cache.prompts.reads(rows)

    def _fits(self, shape: StepShape) -> bool:
        """Whether attention takes all rows at once: how it parts them otherwise follows from the rows of each step."""
        return scratch_bytes(shape.num_rows, shape.longest, self._num_heads, self._cache.head_dim) <= SCRATCH_BYTES

    def run_layers(self, residual: torch.Tensor, rows: Rows, first: int, last: int) -> torch.Tensor:
        """Some layers, for steps that stop between them."""
        return forward_layers(self._weights, self._ranks, residual, rows, self._cache, first=first, last=last)

    def _kernel_by_kernel(self, tokens: torch.Tensor, rows: Rows, chosen: torch.Tensor) -> torch.Tensor:
        device = self._cache.keys.device
        return self._forward(to_device(tokens, device), rows.to(device), to_device(chosen, device))

    def _forward(self, tokens: torch.Tensor, rows: Rows, chosen: torch.Tensor) -> torch.Tensor:
        """From numbers that lie where the weights are."""
        residual = embed(self._weights, self._ranks, tokens)
        self.run_layers(residual, rows, 0, len(self._weights.layers))
        # Picked here and not there, where as many choices as rows means all rows: of a filled step that is not so.
        return head_logits(self._weights, residual[chosen.long()], chosen)

    def _captured(self, graph: _Graph) -> bool:
        """Captures the step that lies in it; running it while doing so writes what it will write anyway."""
        graph.rows.use_tiles(self._rows_per_tile, graph.tiles)
        place = self._logits[: graph.shape.num_chosen]
        try:
            graph.replay, graph.logits = self._capture(
                lambda: place.copy_(self._forward(graph.tokens.long(), graph.rows, graph.chosen))
            )
        except RuntimeError as error:
            self._may_capture = False
            logger.warning(
                "steps of other shapes than the %d captured ones run kernel by kernel from now on, for %s could not be "
                "captured: %s",
                len(self._graphs),
                graph.shape,
                error,
            )
            return False
        self._graphs[graph.shape] = graph
        return True


class _Graph:
    """One shape: where the graph reads, and what it leaves behind."""

    replay: Callable[[], object]
    logits: torch.Tensor

    def __init__(self, shape: StepShape, device: torch.device) -> None:
        self.shape = shape
        self._place = torch.zeros(sum(shape.sizes), dtype=torch.int32, device=device)
        self.tokens, self.chosen, bounds, nodes, bitmaps, flat = torch.split(self._place, shape.sizes)
        self.rows = Rows(flat, shape.num_rows, shape.num_table_entries)
        self.tiles = Tiles(
            count=shape.num_tiles,
            num_nodes=shape.num_nodes,
            longest=shape.longest,
            first_rows=None,
            bounds=bounds.view(-1, 3),
            nodes=nodes.view(shape.num_tiles, shape.num_nodes),
            bitmaps=bitmaps.view(shape.num_rows, -1),
        )

    def fill(self, tokens: torch.Tensor, rows: Rows, tiles: Tiles, chosen: torch.Tensor) -> None:
        """One copy to the device, of as much of the block tables as there is. Tail slots stay behind: tiles hold them
        as bitmaps."""
        size = 5 * rows.count + 1 + rows.num_table_entries
        sizes = [*self.shape.sizes[:-1], size]
        host = pinned_zeros(sum(sizes), self._place.device)
        to_tokens, to_chosen, to_bounds, to_nodes, to_bitmaps, to_flat = torch.split(host, sizes)
        to_tokens[: tokens.shape[0]] = tokens
        to_tokens[tokens.shape[0] :] = int(tokens[-1])
        to_chosen[: chosen.shape[0]] = chosen
        for target, source in ((to_bounds, tiles.bounds), (to_nodes, tiles.nodes), (to_bitmaps, tiles.bitmaps)):
            target[: source.numel()] = source.flatten()
        to_flat.copy_(rows.host[:size])
        self._place[: host.shape[0]].copy_(host, non_blocking=True)


def give_back() -> None:
    """What torch keeps of a GPU for nobody, as the memory of an engine that is gone; not while a graph is captured."""
    with _CAPTURING:
        torch.cuda.empty_cache()


def capture_graph(run: Callable[[], torch.Tensor], *, pool: Any) -> tuple[Callable[[], object], torch.Tensor]:
    """Runs once, so that kernels are compiled and memory is found, and then into a CUDA graph, which takes its memory
    from the pool.

    Both on the current stream, which must not be CUDA's default one: a graph's kernels keep the priority of the stream
    that they were captured from, wherever the graph is replayed. What other threads do to the device meanwhile, as
    NCCL's watchdog or another engine, is no part of it and no error, but for capturing too: one at a time does that.
    """
    run()
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream()
    with _CAPTURING, torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        logits = run()
    return graph.replay, logits
