"""Steps on a GPU as captured graphs: launching a model's few hundred kernels one by one takes longer than running them.

A graph has fixed sizes and reads from fixed places. So a step is filled up to the next of few sizes, its numbers are
copied to where the graph reads them, in one piece, and the graph is replayed. Rows are filled up by repeating the last:
who computes it once more writes the same bits to the same place, and nobody asks for its logits.

A shape that is seen for the first time runs kernel by kernel, for it may never come again; the second time it is
captured. Large steps, steps with a look between layers and groups of several ranks always run kernel by kernel, and so
does everything once a capture has failed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.model import embed, forward_layers, head_logits
from engine.ranks import Ranks
from engine.weights import Weights
from kernels import gpu
from kernels.paged import KVCache, Rows
from kernels.tiles import Tiles, rows_per_tile

__all__ = ["Capture", "CapturedSteps", "StepShape", "capture_graph", "shape_of"]

logger = logging.getLogger(__name__)

MOST_ROWS = 512
"""Above, launches are a small part of a step."""
MOST_GRAPHS = 64
"""Each holds memory of its own for what lies between its kernels."""
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
        """Of the parts of a graph's input: tokens, chosen, rows, and the three tables of its tiles."""
        rows = 5 * self.num_rows + 1 + self.num_table_entries
        words = self.num_rows * self.num_nodes // 32
        return [self.num_rows, self.num_chosen, rows, 3 * self.num_tiles, self.num_tiles * self.num_nodes, words]


def shape_of(rows: Rows, tiles: Tiles, num_chosen: int) -> StepShape:
    """The shape into which a step goes whose rows are filled up already: each size the next power of two."""
    return StepShape(
        num_rows=rows.count,
        num_chosen=_power_of_two(num_chosen),
        num_table_entries=_power_of_two(max(rows.num_table_entries, _LEAST_TABLE_ENTRIES)),
        num_tiles=_power_of_two(tiles.count),
        num_nodes=tiles.num_nodes,
        longest=_power_of_two(max(tiles.longest, _LEAST_KEYS)),
    )


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()


class CapturedSteps:
    """Whole steps of one model on one GPU."""

    def __init__(self, weights: Weights, ranks: Ranks, cache: KVCache, *, capture: Capture) -> None:
        self._weights, self._ranks, self._cache, self._capture = weights, ranks, cache, capture
        self._rows_per_tile = rows_per_tile(weights.shard.num_heads // weights.shard.num_kv_heads)
        self._seen: Counter[StepShape] = Counter()
        self._graphs: dict[StepShape, _Graph] = {}
        self._has_failed = False

    @staticmethod
    def build(weights: Weights, ranks: Ranks, cache: KVCache) -> CapturedSteps | None:
        """None where nothing can be captured."""
        if not cache.keys.is_cuda or not gpu.runs(cache.keys) or ranks.size > 1:
            return None
        return CapturedSteps(weights, ranks, cache, capture=capture_graph)

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
        is_large = rows.count > MOST_ROWS or (self._cache.prompts is not None and self._cache.prompts.reads(rows))
        if is_large or rows.count == 0 or chosen.shape[0] == 0 or self._has_failed:
            return self._kernel_by_kernel(tokens, rows, chosen)
        filled = rows.filled_up(_power_of_two(rows.count))
        tiles = filled.tiles(rows_per_tile=self._rows_per_tile)
        shape = shape_of(filled, tiles, chosen.shape[0])
        self._seen[shape] += 1
        graph = self._graphs.get(shape)
        if graph is None and (self._seen[shape] == 1 or len(self._graphs) == MOST_GRAPHS):
            return self._kernel_by_kernel(tokens, rows, chosen)
        graph = graph or _Graph(shape, self._cache.keys.device)
        graph.fill(tokens, filled, tiles, chosen)
        if shape not in self._graphs and not self._captured(graph):
            return self._kernel_by_kernel(tokens, rows, chosen)
        graph.replay()
        return graph.logits[: chosen.shape[0]]

    def run_layers(self, residual: torch.Tensor, rows: Rows, first: int, last: int) -> torch.Tensor:
        """Some layers, for steps that stop between them."""
        return forward_layers(self._weights, self._ranks, residual, rows, self._cache, first=first, last=last)

    def _kernel_by_kernel(self, tokens: torch.Tensor, rows: Rows, chosen: torch.Tensor) -> torch.Tensor:
        device = self._cache.keys.device
        residual = embed(self._weights, self._ranks, tokens.to(device, non_blocking=True))
        self.run_layers(residual, rows.to(device), 0, len(self._weights.layers))
        # Picked here and not there, where as many choices as rows means all rows: of a filled step that is not so.
        return head_logits(self._weights, residual[chosen.long().to(device, non_blocking=True)], chosen)

    def _captured(self, graph: _Graph) -> bool:
        """Captures the step that lies in it; running it while doing so writes what it will write anyway."""
        graph.rows.use_tiles(self._rows_per_tile, graph.tiles)
        try:
            graph.replay, graph.logits = self._capture(
                lambda: self._kernel_by_kernel(graph.tokens.long(), graph.rows, graph.chosen)
            )
        except RuntimeError as error:
            self._has_failed = True
            logger.warning("steps run kernel by kernel, for one could not be captured: %s", error)
            return False
        self._graphs[graph.shape] = graph
        return True


class _Graph:
    """One shape: a buffer that the graph reads, its twin on the host, and what the graph leaves behind."""

    replay: Callable[[], object]
    logits: torch.Tensor

    def __init__(self, shape: StepShape, device: torch.device) -> None:
        self.shape = shape
        self._host = torch.zeros(sum(shape.sizes), dtype=torch.int32, pin_memory=device.type == "cuda")
        self._device = self._host.to(device, non_blocking=True)
        self.tokens, self.chosen, flat, bounds, nodes, bitmaps = torch.split(self._device, shape.sizes)
        self.rows = Rows(flat, shape.num_rows, shape.num_table_entries)
        self.tiles = Tiles(
            count=shape.num_tiles,
            num_nodes=shape.num_nodes,
            longest=shape.longest,
            bounds=bounds.view(-1, 3),
            nodes=nodes.view(shape.num_tiles, shape.num_nodes),
            bitmaps=bitmaps.view(shape.num_rows, -1),
        )

    def fill(self, tokens: torch.Tensor, rows: Rows, tiles: Tiles, chosen: torch.Tensor) -> None:
        """One copy to the device. The copy of the step before is over: its tokens have been read since."""
        self._host.zero_()
        to_tokens, to_chosen, to_flat, to_bounds, to_nodes, to_bitmaps = torch.split(self._host, self.shape.sizes)
        to_tokens[: tokens.shape[0]] = tokens
        to_tokens[tokens.shape[0] :] = int(tokens[-1])
        to_chosen[: chosen.shape[0]] = chosen
        # Tail slots stay behind: tiles hold them as bitmaps.
        size = 5 * rows.count + 1 + rows.num_table_entries
        to_flat[:size] = rows.host[:size]
        for target, source in ((to_bounds, tiles.bounds), (to_nodes, tiles.nodes), (to_bitmaps, tiles.bitmaps)):
            target[: source.numel()] = source.flatten()
        self._device.copy_(self._host, non_blocking=True)


def capture_graph(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
    """Runs once, so that kernels are compiled and memory is found, and then into a CUDA graph.

    Both on the current stream, which must not be CUDA's default one: a graph's kernels keep the priority of the stream
    that they were captured from, wherever the graph is replayed. What other threads do to the device meanwhile, as
    NCCL's watchdog or another engine, is no part of it and no error.
    """
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
        logits = run()
    return graph.replay, logits
