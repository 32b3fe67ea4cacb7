"""What an engine refuses, each with the value and what would be right, before anything changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass

from contracts.errors import InvalidArgument, OutOfBlocks
from contracts.types import ROOT, SamplingParams, SequenceId
from engine.blocks import BlockPool
from engine.sequence import Sequence
from engine.work import Draft, Verify, Work, tokens_and_parents

__all__ = ["Limits", "check_looks", "check_work"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The sizes that requests are held against."""

    vocab_size: int  # of the model, padding included
    num_real_tokens: int  # of the tokenizer
    max_context: int
    max_batch_rows: int

    def check_tokens(self, tokens: Iterable[int], where: str) -> None:
        """Refuses ids that the tokenizer does not have."""
        for token in tokens:
            if not 0 <= token < self.num_real_tokens:
                raise InvalidArgument(f"{where} holds token {token}; the vocabulary has {self.num_real_tokens}")

    def check_sampling(self, sampling: SamplingParams) -> None:
        """Refuses parameters about tokens that do not exist; the rest is checked where they are made."""
        self.check_tokens(sampling.logit_bias, "logit_bias")
        self.check_tokens(sampling.allowed_token_ids or (), "allowed_token_ids")

    def check_length(self, num_tokens: int, where: str) -> None:
        """Refuses what is longer than the context."""
        if num_tokens > self.max_context:
            raise InvalidArgument(f"{where} has {num_tokens} tokens; the context holds {self.max_context}")


def check_work(work: Items[Work], find: Callable[[SequenceId], Sequence], pool: BlockPool, limits: Limits) -> None:
    """Refuses a step that cannot be done as a whole."""
    if not work:
        raise InvalidArgument("a step without work; give it at least one sequence")
    num_rows = num_blocks = 0
    seen: set[SequenceId] = set()
    for piece in work:
        sequence = find(piece.sequence)
        if piece.sequence in seen:
            raise InvalidArgument(f"sequence {piece.sequence} appears twice in one step")
        seen.add(piece.sequence)
        num_pending = _check_pending(piece, sequence, limits)
        if piece.nodes:
            _check_nodes(piece, sequence, num_pending, limits)
        if isinstance(piece, Verify) and piece.masks:
            _check_masks(piece, sequence, limits)
        parents = [parent for _, parent in tokens_and_parents(piece)]
        num_rows += num_pending + len(parents)
        num_blocks += sequence.blocks_needed(num_pending, parents)
    if num_rows > limits.max_batch_rows:
        raise InvalidArgument(f"a step of {num_rows} rows; max_batch_rows is {limits.max_batch_rows}")
    if num_blocks > pool.num_free:
        raise OutOfBlocks(num_needed=num_blocks, num_free=pool.num_free)


def num_more_possible(piece: Draft, sequence: Sequence, pool: BlockPool, limits: Limits) -> int:
    """As many of the nodes that a step is to put there itself as there is room for. That step may be done without."""
    num_pending = sequence.num_pending if piece.num_pending is None else piece.num_pending
    first = len(sequence.nodes)
    is_in_step = num_pending > 0 if piece.more_below == ROOT else first <= piece.more_below < first + len(piece.nodes)
    if num_pending < sequence.num_pending or not is_in_step:
        return 0
    depths = {ROOT: 0} | {index: node.position + 1 - len(sequence.tokens) for index, node in enumerate(sequence.nodes)}
    for index, (_, parent) in enumerate(piece.nodes, start=first):
        depths[index] = depths[parent] + 1
    num_rows, depth = num_pending + len(piece.nodes), len(sequence.tokens) + depths[piece.more_below]
    most = min(piece.num_more, limits.max_batch_rows - num_rows, limits.max_context - depth)
    parents = [parent for _, parent in (*piece.nodes, *piece.own_nodes(first, most))]
    return most if most > 0 and sequence.blocks_needed(num_pending, parents) <= pool.num_free else 0


def check_looks(num_top: int, layers: Items[int], num_layers: int) -> None:
    """Refuses what a step cannot show: fewer than one candidate, or rows after layers that are not there."""
    if num_top < 1:
        raise InvalidArgument(f"num_top is {num_top}; a proposal has at least one candidate")
    if list(layers) != sorted(set(layers)) or not all(0 <= layer < num_layers for layer in layers):
        raise InvalidArgument(
            f"a layer hook asks for layers {list(layers)}; they must rise and lie between 0 and {num_layers - 1}"
        )


def _check_pending(piece: Work, sequence: Sequence, limits: Limits) -> int:
    num_pending = sequence.num_pending if piece.num_pending is None else piece.num_pending
    only_nodes = isinstance(piece, Draft) and len(piece.nodes) > 0 and sequence.num_pending == 0
    least = 0 if only_nodes else 1
    if not least <= num_pending <= sequence.num_pending:
        raise InvalidArgument(
            f"num_pending of sequence {sequence.id} is {num_pending}; it must be from {least} to {sequence.num_pending}"
        )
    # The token that a full sequence decides last lies past the end; it can be reported, not computed.
    limits.check_length(sequence.num_computed + num_pending, f"sequence {sequence.id}")
    return num_pending


def _check_nodes(piece: Work, sequence: Sequence, num_pending: int, limits: Limits) -> None:
    if num_pending < sequence.num_pending:
        raise InvalidArgument(f"nodes of sequence {sequence.id} hang below a token that this step does not compute")
    if isinstance(piece, Verify) and sequence.nodes:
        raise InvalidArgument(f"sequence {sequence.id} has a tree of drafts; commit or drop it before a Verify")
    depths = [node.position + 1 - len(sequence.tokens) for node in sequence.nodes]
    for index, (token, parent) in enumerate(tokens_and_parents(piece), start=len(sequence.nodes)):
        if not ROOT <= parent < index:
            raise InvalidArgument(
                f"node {index} of sequence {sequence.id} has parent {parent}; it must be {ROOT} or an earlier node"
            )
        depths.append(1 if parent == ROOT else depths[parent] + 1)
        limits.check_tokens([token], f"node {index} of sequence {sequence.id}")
    limits.check_length(len(sequence.tokens) + max(depths), f"the deepest path of sequence {sequence.id}")


def _check_masks(piece: Verify, sequence: Sequence, limits: Limits) -> None:
    usable = (1 << limits.num_real_tokens) - 1
    if sequence.allowed is not None:
        usable &= int.from_bytes(sequence.allowed, "little")
    size = -(-limits.vocab_size // 8)
    if len(piece.masks) != 1 + len(piece.nodes):
        raise InvalidArgument(
            f"sequence {piece.sequence} has {len(piece.masks)} masks; one for its last token and each of "
            f"{len(piece.nodes)} nodes make {1 + len(piece.nodes)}"
        )
    for mask in piece.masks:
        if mask is not None and (len(mask) != size or not int.from_bytes(mask, "little") & usable):
            raise InvalidArgument(
                f"a mask of sequence {piece.sequence} has {len(mask)} bytes, {sum(map(bool, mask))} of them not zero; "
                f"it needs {size} bytes, and must allow at least one token that the sequence may use"
            )
