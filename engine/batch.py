"""Packs the rows of a step: any mix of prompt chunks, plain steps and trees, one after another without padding."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contracts.types import ROOT
from engine.message import StepMessage
from engine.sequence import Node, Sequence

__all__ = ["BatchBuilder", "Span"]

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Where one sequence's rows and choices lie in a step."""

    sequence: Sequence
    num_pending: int  # rows of committed tokens, in order
    first_row: int
    first_choice: int
    num_choices: int  # 0 while the prompt is not through; else its last row, if it is one of these, and each node
    first_node: int  # index in the sequence's nodes of the first node of this step
    num_nodes: int
    num_more: int  # of these nodes at the end, whose tokens the step finds itself


@dataclass(slots=True)
class BatchBuilder:
    """Collects sequences, then makes the one message of the step."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    write_slots: list[int] = field(default_factory=list)
    num_in_table: list[int] = field(default_factory=list)
    table_offsets: list[int] = field(default_factory=list)
    tail_offsets: list[int] = field(default_factory=lambda: [0])
    tables: list[int] = field(default_factory=list)
    tail_slots: list[int] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    choice_positions: list[int] = field(default_factory=list)
    settings: list[tuple[float, float, float, float]] = field(default_factory=list)
    edits: list[Array] = field(default_factory=list)
    edit_values: list[Array] = field(default_factory=list)
    masks: list[bytes] = field(default_factory=list)
    masked: list[int] = field(default_factory=list)
    is_limited: bool = False
    num_more: int = 0
    more_below: int = 0  # the choice that names the first of them

    def add(
        self,
        sequence: Sequence,
        num_pending: int,
        nodes: Items[tuple[int, int]],
        masks: Items[bytes | None] = (),
        *,
        num_more: int = 0,
        more_below: int = ROOT,
    ) -> Span:
        """Places the next `num_pending` committed tokens and the nodes (token, parent), and packs their rows. The last
        `num_more` nodes have no token yet; the first of them is below node `more_below`."""
        span = Span(
            sequence=sequence,
            num_pending=num_pending,
            first_row=len(self.tokens),
            first_choice=len(self.chosen),
            num_choices=(num_pending > 0) + len(nodes) if num_pending == sequence.num_pending else 0,
            first_node=len(sequence.nodes),
            num_nodes=len(nodes),
            num_more=num_more,
        )
        if num_more:
            below = 0 if more_below == ROOT else (num_pending > 0) + more_below - span.first_node
            self.num_more, self.more_below = num_more, span.first_choice + below
        self._add_pending(sequence, num_pending)
        placed = [sequence.place_node(token, parent) for token, parent in nodes]
        for node in placed:
            self._add_node(node)
        self.table_offsets.extend([len(self.tables)] * (num_pending + len(nodes)))
        self.tables.extend(sequence.table)
        if span.num_choices:
            if num_pending:
                self._choose(sequence, span.first_row + num_pending - 1, len(sequence.tokens), [])
            for index, node in enumerate(placed):
                row = span.first_row + num_pending + index
                self._choose(sequence, row, node.position + 1, _path_tokens(sequence, span.first_node + index))
            self._mask(span, masks)
        return span

    def _add_pending(self, sequence: Sequence, count: int) -> None:
        first = sequence.num_computed
        self.tokens.extend(sequence.tokens[first : first + count])
        self.positions.extend(range(first, first + count))
        self.write_slots.extend(sequence.place_pending(count))
        self.num_in_table.extend(range(first + 1, first + count + 1))
        self.tail_offsets.extend([len(self.tail_slots)] * count)

    def _add_node(self, node: Node) -> None:
        self.tokens.append(node.token)
        self.positions.append(node.position)
        self.write_slots.append(node.slot)
        self.num_in_table.append(node.num_in_table)
        self.tail_slots.extend(node.tail)
        self.tail_offsets.append(len(self.tail_slots))

    def _choose(self, sequence: Sequence, row: int, position: int, path: list[int]) -> None:
        sampling, choice = sequence.sampling, len(self.chosen)
        self.chosen.append(row)
        self.seeds.append(sampling.seed)
        self.choice_positions.append(position)
        self.settings.append((sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p))
        self.is_limited |= not sampling.is_greedy and (
            sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0
        )
        if sequence.history.is_active or sampling.logit_bias:
            edited, values = sequence.history.edits(sequence.tokens, path)
            self.edits.append(np.stack([np.full_like(edited, choice), edited], axis=1))
            self.edit_values.append(values)

    def _mask(self, span: Span, masks: Items[bytes | None]) -> None:
        always = span.sequence.allowed
        for index in range(span.num_choices):
            mask = masks[index] if masks else None
            if mask is None:
                mask = always
            elif always is not None:
                mask = bytes(a & b for a, b in zip(mask, always, strict=True))
            if mask is not None:
                self.masked.append(span.first_choice + index)
                self.masks.append(mask)

    def message(self, *, copies: list[int], hook_layers: Items[int], num_top: int, num_likeliest: int) -> StepMessage:
        """The step as every rank gets it."""
        flat = self.positions + self.write_slots + self.num_in_table + self.table_offsets
        flat += self.tail_offsets
        flat += self.tables
        flat += self.tail_slots
        array, masks = StepMessage.array, b"".join(self.masks)
        return StepMessage(
            num_rows=len(self.tokens),
            num_table_entries=len(self.tables),
            num_top=num_top,
            num_likeliest=num_likeliest,
            is_limited=self.is_limited,
            num_more=self.num_more,
            more_below=self.more_below,
            rows=array("rows", flat),
            tokens=array("tokens", self.tokens),
            chosen=array("chosen", self.chosen),
            copies=array("copies", copies),
            hook_layers=array("hook_layers", hook_layers),
            seeds=array("seeds", self.seeds),
            positions=array("positions", self.choice_positions),
            settings=array("settings", self.settings),
            edits=np.concatenate(self.edits) if self.edits else array("edits", ()),
            edit_values=np.concatenate(self.edit_values) if self.edit_values else array("edit_values", ()),
            masks=np.frombuffer(masks, "<u1").reshape(len(self.masks), -1) if masks else array("masks", ()),
            masked=array("masked", self.masked),
        )


def _path_tokens(sequence: Sequence, index: int) -> list[int]:
    """Tokens from the root down to the node, itself included; in any order, they are only counted."""
    path = []
    while index != ROOT:
        path.append(sequence.nodes[index].token)
        index = sequence.nodes[index].parent
    return path
