"""One sequence as a model reads it: what it said after which path, and which of these places its engine still holds.

A path is the tokens below the last committed one; the empty path is that token itself. What was said at a place stays
known when the cache drops its keys: computed again it would be the same, bit for bit. So dropping costs time only, and
a tree that grows meanwhile does not notice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from contracts.types import ROOT
from engine.engine import Engine
from engine.work import Draft, Drafted
from workers.drafters.drafter import Ask
from workers.drafters.growth import Candidate, Growth
from workers.drafters.model_scores import Scored, scored
from workers.drafters.text import Text

__all__ = ["Path", "Piece", "Reading"]

Path = tuple[int, ...]


class Reading:
    """See the module. The engine has the sequence only while it `is_resident`."""

    def __init__(self, text: Text, engine: Engine, *, max_depth: int) -> None:
        self.text = text
        self.known: dict[Path, Scored] = {}
        self.last_ask = 0
        """When it was last asked, as the number of that ask."""
        self.num_moves = 0
        """How often the committed tokens grew, or ended: paths from before such a move mean nothing after it."""
        self.is_resident = False
        self._engine, self._max_depth = engine, max_depth
        self._nodes: dict[Path, int] = {(): ROOT}  # the engine's numbers
        self._is_too_large = False
        self._agreed: list[bool] = []

    @property
    def num_nodes(self) -> int:
        """Nodes of its tree that the engine holds."""
        return len(self._nodes) - 1

    @property
    def num_pending(self) -> int:
        """Committed tokens that the engine, where it has the sequence, did not compute yet."""
        return self._engine.num_pending(self.text.sequence)

    @property
    def is_readable(self) -> bool:
        """Whether there is something to read, and the engine can hold it."""
        return len(self.text.tokens) > 0 and not self._is_too_large

    def growth(self, ask: Ask) -> Growth[Path]:
        """The tree that is asked for, before anything was looked at.

        It is never deeper than the context: the model has no place for tokens past it.
        """
        left = self._engine.limits.max_context - len(self.text.tokens) - len(ask.below)
        max_depth = min(ask.max_depth or self._max_depth, left)
        return Growth(ask.below, ask.num_nodes, max_depth=max_depth, least_value=ask.least_value)

    def grow(self, growth: Growth[Path], max_children: int | None = None) -> None:
        """As far as it is known what comes next."""
        while growth.next is not None and (said := self.known.get(growth.next.context)) is not None:
            growth.give(_below(growth.next.context, said[:max_children]))

    def finish(self, growth: Growth[Path], max_children: int | None = None) -> None:
        """To its end: where it is not known what comes next, nothing does."""
        while growth.next is not None:
            growth.give(_below(growth.next.context, self.known.get(growth.next.context, ())[:max_children]))

    # In the engine

    def enter(self) -> None:
        """Into the engine, with whatever its prefix cache still has."""
        if not self.is_resident:
            text = self.text
            # Drafting needs no lists of likely tokens, and they would be made for every row of a step.
            sampling = replace(text.sampling, num_logprobs=0)
            self._engine.open(text.sequence, text.tokens, sampling, num_prompt=text.num_prompt, tenant=text.tenant)
            self.is_resident = True

    def leave(self) -> None:
        """Out of the engine: its blocks are free, and those of its committed tokens may be found again later."""
        if self.is_resident:
            self._engine.close(self.text.sequence)
            self.is_resident, self._nodes = False, {(): ROOT}

    def leave_for_good(self) -> None:
        """Its committed tokens alone are more than the whole cache holds, and they will not become fewer."""
        self.leave()
        self._is_too_large = True

    def drop_nodes(self) -> None:
        """Frees what the tree takes in the engine; what is known stays."""
        if self.is_resident:
            self._engine.drop_nodes(self.text.sequence)
        self._nodes = {(): ROOT}

    def forget(self) -> None:
        """Frees the tree and all that is known of it, but for what comes next."""
        self.drop_nodes()
        self.known = {path: said for path, said in self.known.items() if path == ()}

    def plan(self, paths: Sequence[Path], max_rows: int, num_more: int = 0) -> Piece:
        """The work of one step towards knowing what comes after these paths: as much as fits into so many rows. Below
        the first of them the step may go on by itself."""
        sequence, num_pending = self.text.sequence, self.num_pending
        if num_pending > max_rows:
            return Piece(reading=self, work=Draft(sequence=sequence, num_pending=max_rows), paths=())
        new: dict[Path, int] = {}
        nodes: list[tuple[int, int]] = []
        for path in paths:
            for length in range(1, len(path) + 1):
                here, above = path[:length], path[: length - 1]
                if here in self._nodes or here in new:
                    continue
                if num_pending + len(nodes) == max_rows:
                    break
                nodes.append((here[-1], new[above] if above in new else self._nodes[above]))
                new[here] = self.num_nodes + len(new)
        below = paths[0] if paths else ()
        if below not in new and (below or not num_pending):
            num_more = 0
        work = Draft(sequence=sequence, nodes=tuple(nodes), num_more=num_more, more_below=new.get(below, ROOT))
        return Piece(reading=self, work=work, paths=tuple(new), below=below)

    def record(self, piece: Piece, drafted: Drafted, *, width: int) -> None:
        """What a step said."""
        temperature = self.text.sampling.temperature
        more = list(itertools.accumulate(drafted.more, lambda path, token: (*path, token), initial=piece.below))
        paths = [*piece.paths, *more[1:]]
        for index, path in enumerate(paths, start=drafted.first_node):
            self._nodes[path] = index
        for proposal in drafted.proposals:
            path = () if proposal.parent == ROOT else paths[proposal.parent - drafted.first_node]
            self.known[path] = scored(proposal.candidates, temperature=temperature, width=width)

    # Following

    def grew(self, tokens: Path) -> None:
        """The target decided these tokens: what was drafted along them stays, the rest goes."""
        if not tokens:
            return
        for index, token in enumerate(tokens):
            if said := self.known.get(tokens[:index]):
                self._agreed.append(said[0][0] == token)
        count = len(tokens)
        self.known = {path[count:]: said for path, said in self.known.items() if path[:count] == tokens}
        survivors: dict[int, int] = {}
        if len(self.text.tokens) > self._engine.limits.max_context:
            self.leave()
        elif self.is_resident:
            survivors = self._engine.commit(self.text.sequence, tokens)
        nodes = {path[count:]: survivors[index] for path, index in self._nodes.items() if index in survivors}
        self._nodes = {(): ROOT, **nodes}
        self.num_moves += 1

    def close(self) -> None:
        """Nothing follows."""
        self.leave()
        self.num_moves += 1

    def take_agreed(self) -> tuple[bool, ...]:
        """See `ModelDrafter.agreement`."""
        agreed, self._agreed = tuple(self._agreed), []
        return agreed


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One reading's share of a step; `paths` are those of the work's new nodes, in their order. `below` is the path on
    which the step may go on by itself."""

    reading: Reading
    work: Draft
    paths: tuple[Path, ...]
    below: Path = ()

    @property
    def num_rows(self) -> int:
        """Rows that it takes in the step."""
        num_pending = self.work.num_pending
        return (self.reading.num_pending if num_pending is None else num_pending) + len(self.paths)


def _below(path: Path, said: Scored) -> list[Candidate[Path]]:
    return [(token, confidence, (*path, token)) for token, confidence in said]
