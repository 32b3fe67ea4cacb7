"""Runs one step on one rank, from the message of rank 0 to the sampled tokens; the same on every rank."""

from __future__ import annotations

import contextlib
import itertools
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from contracts.errors import Internal, InvalidArgument, Overloaded
from engine.captured import CapturedSteps
from engine.compiled import CompiledStep
from engine.copies import moves
from engine.host_copy import wait_for
from engine.message import StepMessage
from engine.model import embed, forward_layers, head_logits
from engine.ranks import Ranks
from engine.sampler import Sampled, SampledNumbers, choices_of, sample
from engine.streams import EngineStream
from engine.weights import Weights
from kernels import native
from kernels.checks import trusting
from kernels.paged import KVCache, Rows
from kernels.pinned import to_device

__all__ = ["Executor", "LayerHook", "StepAbandoned", "StepOutput"]


# What rank 0 sends in place of the rows that stay when its hook failed; it is never empty otherwise.
_ABANDON = b""


class StepAbandoned(Exception):
    """On a follower: rank 0 gave this step up in the middle; the next message is a new step."""


class LayerHook(Protocol):
    """Looks at the rows between layers, and may drop some of them.

    What it is given is the running step's own memory: clone what is to be kept.
    """

    layers: tuple[int, ...]
    """After which layers (counted from 0) it wants to be called."""

    def __call__(
        self,
        layer: int,
        hidden: torch.Tensor,  # [rows still there, hidden] float32
        rows: torch.Tensor,  # [rows still there] int64: their numbers in the step
    ) -> torch.Tensor | None:
        """None to keep all rows, or a bool tensor [rows still there], True for those that stay."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutput:
    """What a step brought. `choice_of` maps the number of a chosen row to its place in `sampled`, where it survived."""

    sampled: SampledNumbers | None
    choice_of: Mapping[int, int]
    num_rows_dropped: int
    is_typical: bool
    """Whether its like will take as long: see CapturedSteps."""
    more: tuple[int, ...] = ()
    """Tokens of the rows that it put there itself."""


class Executor:
    """Weights, cache and ranks of one process."""

    def __init__(
        self,
        weights: Weights,
        cache: KVCache,
        ranks: Ranks,
        *,
        num_threads: int,
        num_real_tokens: int,
        compiled: CompiledStep | CapturedSteps | None,
        stream: EngineStream | None = None,
    ) -> None:
        self.weights, self.cache, self.ranks = weights, cache, ranks
        self.num_threads, self.num_real_tokens, self.compiled = num_threads, num_real_tokens, compiled
        self._stream = stream
        self._moves: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        """What is to be moved in the cache before anything else; a step without memory leaves some to the next."""

    def run(
        self, message: StepMessage, hook: LayerHook | None = None, undroppable: frozenset[int] = frozenset()
    ) -> StepOutput:
        """One step: copies, layers, logits, tokens. `hook` lives on rank 0; the others hear what it dropped.

        A rank that fails in the middle leaves the group: the others wait for it in an exchange, and the next step must
        not meet them there.
        """
        self._is_abandoned = False
        try:
            with self._where_it_runs(f"a step of {message.num_rows} rows"):
                return self._run(message, hook, undroppable)
        except BaseException:
            if not self._is_abandoned:
                self.ranks.close()
            raise

    def warm_up(self, steps: Iterable[tuple[torch.Tensor, Rows, torch.Tensor]]) -> None:
        """Captures steps like these, of tokens, rows and chosen rows, for which the cache must be nobody's yet."""
        with self._where_it_runs("a step before the first request"):
            nowhere = torch.zeros(1, dtype=torch.int64)
            self.cache.copy(nowhere, nowhere)
            if isinstance(self.compiled, CapturedSteps):
                for tokens, rows, chosen in steps:
                    for _ in ("seen", "captured"):
                        self.compiled.run(tokens, rows, chosen)
            wait_for(self.cache.keys.device)

    @contextlib.contextmanager
    def _where_it_runs(self, what: str) -> Iterator[None]:
        """On the engine's own stream. Where there is no memory for it, that concerns whoever asked, and nobody else."""
        with contextlib.ExitStack() as stack:
            if self._stream is not None:
                stack.enter_context(torch.cuda.stream(self._stream.stream))
            try:
                yield
            except torch.OutOfMemoryError as error:
                traceback.clear_frames(error.__traceback__)  # which hold what was in the way
                num_bytes = self.cache.keys.nbytes + self.cache.values.nbytes
                raise Overloaded(
                    f"{what} found no room on {self.cache.keys.device}: {str(error).splitlines()[0]} The KV cache has "
                    f"{num_bytes} bytes of it; lower engine.kv_cache_bytes, engine.max_batch_rows or what else runs "
                    "there"
                ) from error

    def _run(self, message: StepMessage, hook: LayerHook | None, undroppable: frozenset[int]) -> StepOutput:
        # No inference_mode besides: nothing here has gradients to keep.
        with native.use_threads(self.num_threads), trusting():
            self._move(message)
            device = self.cache.keys.device
            rows = Rows(torch.from_numpy(message.rows), message.num_rows, message.num_table_entries)
            tokens = torch.from_numpy(message.tokens)
            chosen = torch.from_numpy(message.chosen)
            is_typical = True
            if message.num_more:
                return self._run_on(tokens, rows, chosen, message)
            if message.hook_layers.size == 0:
                logits = self._logits(tokens, rows, chosen)
                places = list(range(message.chosen.size))
                num_dropped = 0
                is_typical = not isinstance(self.compiled, CapturedSteps) or self.compiled.is_typical
            else:
                residual, alive = self._layers_with_hook(tokens, rows, message, hook, undroppable)
                message, places, chosen = _survivors(message, alive)
                logits = head_logits(self.weights, residual, to_device(chosen, device))
                num_dropped = rows.count - alive.shape[0]
            numbers = None
            if message.chosen.size:
                shard, num_real = self.weights.shard, self.num_real_tokens
                numbers = sample(logits, message, self.ranks, shard, num_real_tokens=num_real).numbers()
            else:
                wait_for(device)
        return StepOutput(
            sampled=numbers,
            choice_of={choice: place for place, choice in enumerate(places)},
            num_rows_dropped=num_dropped,
            is_typical=is_typical,
        )

    @property
    def can_run_on(self) -> bool:
        """Whether a step may choose the tokens of its last rows itself."""
        return isinstance(self.compiled, CompiledStep)

    def _run_on(self, tokens: torch.Tensor, rows: Rows, chosen: torch.Tensor, message: StepMessage) -> StepOutput:
        if not isinstance(self.compiled, CompiledStep):
            raise Internal("a step is to choose tokens of its own rows, and nothing here does that")
        tokens[-message.num_more :] = -1
        values, best = self.compiled.run_on(
            tokens,
            rows,
            chosen,
            choices_of(message),
            num_more=message.num_more,
            more_below=message.more_below,
            num_top=message.num_top,
            num_real_tokens=self.num_real_tokens,
        )
        sampled = Sampled(values=values, tokens=best, logprobs=None, likeliest=None)
        return StepOutput(
            sampled=sampled.numbers(),
            choice_of={choice: choice for choice in range(message.chosen.size)},
            num_rows_dropped=0,
            is_typical=True,
            more=tuple(itertools.takewhile(lambda token: token >= 0, tokens[-message.num_more :].tolist())),
        )

    def _move(self, message: StepMessage) -> None:
        """A move takes the memory that it needs before it writes, so one that found none has done nothing yet."""
        if message.copies.size:
            self._moves.extend(moves(message.copies))
        while self._moves:
            self.cache.copy(*self._moves[0])
            self._moves.popleft()

    def _logits(self, tokens: torch.Tensor, rows: Rows, chosen: torch.Tensor) -> torch.Tensor:
        if self.compiled is not None:
            return self.compiled.run(tokens, rows, chosen)
        device = self.cache.keys.device
        residual = embed(self.weights, self.ranks, to_device(tokens, device))
        self._layers(residual, rows.to(device), 0, len(self.weights.layers))
        return head_logits(self.weights, residual, to_device(chosen.long(), device))

    def _layers(self, residual: torch.Tensor, rows: Rows, first: int, last: int) -> torch.Tensor:
        if self.compiled is not None:
            return self.compiled.run_layers(residual, rows, first, last)
        return forward_layers(self.weights, self.ranks, residual, rows, self.cache, first=first, last=last)

    def _layers_with_hook(
        self,
        tokens: torch.Tensor,
        rows: Rows,
        message: StepMessage,
        hook: LayerHook | None,
        undroppable: frozenset[int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual stream of the surviving rows, and their numbers."""
        device = self.cache.keys.device
        rows, residual = rows.to(device), embed(self.weights, self.ranks, to_device(tokens, device))
        alive = torch.arange(rows.count)
        first = 0
        for layer in message.hook_layers.tolist():
            residual = self._layers(residual, rows, first, layer + 1)
            first = layer + 1
            keep = self._ask(hook, layer, residual, alive, undroppable)
            if not bool(keep.all()):
                kept = torch.nonzero(keep).flatten()
                rows, residual, alive = (
                    rows.select(kept),
                    residual[to_device(kept, residual.device)],
                    alive[kept],
                )
        return self._layers(residual, rows, first, len(self.weights.layers)), alive

    def _ask(
        self,
        hook: LayerHook | None,
        layer: int,
        residual: torch.Tensor,
        alive: torch.Tensor,
        undroppable: frozenset[int],
    ) -> torch.Tensor:
        if self.ranks.rank != 0:
            content = self.ranks.receive()
            if content == _ABANDON:
                self._is_abandoned = True
                raise StepAbandoned
            return torch.frombuffer(bytearray(content), dtype=torch.bool)
        try:
            keep = _answer(hook, layer, residual, alive, undroppable)
        except BaseException:
            self.ranks.send(_ABANDON)
            self._is_abandoned = True
            raise
        self.ranks.send(keep.numpy().tobytes())
        return keep


def _answer(
    hook: LayerHook | None, layer: int, residual: torch.Tensor, alive: torch.Tensor, undroppable: frozenset[int]
) -> torch.Tensor:
    """The hook's answer, checked: bool [rows still there]."""
    if hook is None:
        raise Internal("a step stops between layers, but nobody is there to look")
    keep = hook(layer, residual, alive)
    if keep is None:
        keep = torch.ones(alive.shape[0], dtype=torch.bool)
    if keep.dtype != torch.bool or keep.shape != alive.shape:
        raise InvalidArgument(f"a layer hook answers with bool [{alive.shape[0]}], got {keep.dtype} {list(keep.shape)}")
    lost = undroppable.intersection(alive[~keep].tolist())
    if lost:
        raise InvalidArgument(
            f"a layer hook dropped rows {sorted(lost)}, whose keys later steps will read; only nodes of a Verify can go"
        )
    return keep


def _survivors(message: StepMessage, alive: torch.Tensor) -> tuple[StepMessage, list[int], torch.Tensor]:
    """The message without the choices of dropped rows, the numbers of those left, and their rows among the living."""
    place_of = {row: place for place, row in enumerate(alive.tolist())}
    left = [choice for choice, row in enumerate(message.chosen.tolist()) if row in place_of]
    index = np.array(left, dtype=np.int64)
    new_number = np.full(message.chosen.size, -1, dtype=np.int64)
    new_number[index] = np.arange(index.size)
    kept_edits = new_number[message.edits[:, 0]] >= 0 if message.edits.size else np.zeros(0, dtype=bool)
    kept_masks = new_number[message.masked] >= 0 if message.masked.size else np.zeros(0, dtype=bool)
    edits = message.edits[kept_edits].copy()
    edits[:, 0] = new_number[edits[:, 0]]
    smaller = replace(
        message,
        chosen=message.chosen[index],
        seeds=message.seeds[index],
        positions=message.positions[index],
        settings=message.settings[index],
        edits=edits,
        edit_values=message.edit_values[kept_edits],
        masks=message.masks[kept_masks] if message.masked.size else message.masks,
        masked=new_number[message.masked[kept_masks]].astype("<i4"),
    )
    return smaller, left, torch.tensor([place_of[int(row)] for row in smaller.chosen], dtype=torch.int64)
