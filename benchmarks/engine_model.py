"""An engine's whole distributions, which the service never needs: for rules that verify samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from contracts.errors import InvalidArgument
from contracts.types import ROOT, SamplingParams, SequenceId, StepReport
from engine.engine import Engine
from engine.model import head_logits
from engine.work import Draft
from speculation.rules.coin import Probs

__all__ = ["EngineModel", "LastHidden"]

Path = tuple[int, ...]


class LastHidden:
    """Keeps what leaves the last layer."""

    def __init__(self, num_layers: int) -> None:
        self.layers: tuple[int, ...] = (num_layers - 1,)
        self.hidden: torch.Tensor | None = None  # [rows, hidden]

    def __call__(self, layer: int, hidden: torch.Tensor, rows: torch.Tensor) -> None:
        self.hidden = hidden.clone()


class EngineModel:
    """One sequence of an engine as a function from the tokens below its root to probabilities of the next one.

    At temperature 0 all probability is on the likeliest token. Needs an engine of one rank: with more, each holds a
    part of the vocabulary only.
    """

    def __init__(self, engine: Engine, sequence: SequenceId, tokens: Sequence[int], *, temperature: float) -> None:
        self.engine, self.sequence, self.temperature = engine, sequence, temperature
        self.reports: list[StepReport] = []
        self._node_of: dict[Path, int] = {(): ROOT}
        self._probs: dict[Path, Probs] = {}
        engine.open(sequence, tokens, SamplingParams())

    def __call__(self, path: Path) -> Probs:
        if path not in self._probs:
            self.compute([path])
        return self._probs[path]

    def compute(self, paths: Sequence[Path]) -> None:
        """Computes what is missing of these places in one step."""
        missing = [path[: n + 1] for path in paths for n in range(len(path)) if path[: n + 1] not in self._node_of]
        new = list(dict.fromkeys(missing))
        if not new and () in self._probs:
            return
        max_rows = self.engine.limits.max_batch_rows
        if len(new) >= max_rows:
            raise InvalidArgument(f"{len(new)} places at once are too many for a step of {max_rows} rows; draft fewer")
        while (num_pending := self.engine.num_pending(self.sequence)) + len(new) > max_rows:
            chunk = min(num_pending - 1, max_rows)
            self.reports.append(self.engine.step([Draft(sequence=self.sequence, num_pending=chunk)]).report)
        first = len(self._node_of) - 1
        place = {**self._node_of, **{path: first + index for index, path in enumerate(new)}}
        nodes = tuple((path[-1], place[path[:-1]]) for path in new)
        hook = LastHidden(len(self.engine.executor.weights.layers))
        self.reports.append(self.engine.step([Draft(sequence=self.sequence, nodes=nodes)], hook=hook).report)
        assert hook.hidden is not None, "every step passes the last layer"
        computed = ([()] if num_pending else []) + new
        rows = torch.arange(hook.hidden.shape[0])[hook.hidden.shape[0] - len(computed) :]
        for path, row in zip(computed, head_logits(self.engine.executor.weights, hook.hidden, rows), strict=True):
            self._probs[path] = self._distribution(row)
        self._node_of = place

    def commit(self, tokens: Sequence[int]) -> None:
        """These were decided; places below them stay known."""
        survivors = self.engine.commit(self.sequence, tokens)
        done, count = tuple(tokens), len(tokens)
        self._probs = {path[count:]: probs for path, probs in self._probs.items() if path[:count] == done}
        self._node_of = {
            path[count:]: survivors[node]
            for path, node in self._node_of.items()
            if path[:count] == done and node in survivors
        }
        self._node_of[()] = ROOT

    def close(self) -> None:
        self.engine.close(self.sequence)

    def _distribution(
        self,
        logits: torch.Tensor,  # [vocab] float32
    ) -> Probs:
        row = logits[: self.engine.limits.num_real_tokens].double()
        if self.temperature == 0.0:
            probs = np.zeros(row.shape[0])
            probs[int(row.argmax())] = 1.0
            return probs
        found: Probs = torch.softmax(row / self.temperature, dim=0).numpy()
        return found
