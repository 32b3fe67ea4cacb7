"""One model on one group of ranks: open sequences, step, commit, close.

`Engine` is rank 0: it keeps the books (sequences, blocks), packs each step into one message and settles what comes
back. The other ranks run `Follower`, which only executes.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence as Items

from contracts.clock import Clock, SystemClock
from contracts.errors import AlreadyExists, Internal, InvalidArgument, NotFound
from contracts.types import Epoch, ModelIdentity, SamplingParams, SequenceId, StepReport, TenantId, Verdict
from engine.batch import BatchBuilder, Span
from engine.blocks import BlockPool
from engine.checks import Limits, check_looks, check_work, num_more_possible
from engine.executor import Executor, LayerHook, StepAbandoned, StepOutput
from engine.message import StepMessage
from engine.sequence import Sequence
from engine.settle import proposals_of, verdict_of
from engine.work import Draft, Drafted, Outcome, StepResult, Work, tokens_and_parents

__all__ = ["Engine", "Follower"]

_DEFAULT_TENANT = TenantId("")
_FIRST_EPOCH = Epoch(0)


class Engine:
    """Sequences over one executor. Not thread-safe: one caller at a time."""

    def __init__(
        self,
        executor: Executor,
        identity: ModelIdentity,
        *,
        max_context: int,
        max_batch_rows: int,
        prefix_cache: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self.executor, self.identity = executor, identity
        self.limits = Limits(
            vocab_size=identity.vocab_size,
            num_real_tokens=executor.num_real_tokens,
            max_context=max_context,
            max_batch_rows=max_batch_rows,
        )
        self.pool = BlockPool(executor.cache.num_blocks)
        self._prefix_cache = prefix_cache
        self._windows = Counter(layer.window for layer in executor.weights.layers)
        self._clock = clock or SystemClock()
        self._sequences: dict[SequenceId, Sequence] = {}
        self._epochs: dict[SequenceId, Epoch] = {}
        self._copies: list[int] = []  # groups of (count, sources.., targets..) for the next step

    # Sequences

    def open(
        self,
        sequence: SequenceId,
        tokens: Items[int],
        sampling: SamplingParams,
        *,
        num_prompt: int | None = None,
        tenant: TenantId = _DEFAULT_TENANT,
        epoch: Epoch = _FIRST_EPOCH,
    ) -> int:
        """Starts a sequence from committed tokens, and says how many of them the prefix cache already has.

        A sequence that is resumed passes prompt and answer so far, and `num_prompt` to tell them apart for penalties.
        Nothing is computed before the first step.
        """
        if sequence in self._sequences:
            raise AlreadyExists(f"sequence {sequence} is open already")
        self.limits.check_tokens(tokens, f"sequence {sequence}")
        self.limits.check_length(len(tokens), f"sequence {sequence}")
        self.limits.check_sampling(sampling)
        if not tokens:
            raise InvalidArgument(f"sequence {sequence} has no tokens; a prompt has at least one")
        if num_prompt is not None and not 0 <= num_prompt <= len(tokens):
            raise InvalidArgument(f"num_prompt of sequence {sequence} is {num_prompt}; it has {len(tokens)} tokens")
        found = Sequence(
            id=sequence,
            tenant=tenant,
            sampling=sampling,
            allowed=self._allowed(sampling),
            pool=self.pool,
            tokens=list(tokens),
            num_prompt=len(tokens) if num_prompt is None else num_prompt,
        )
        num_cached = found.adopt_prefix() if self._prefix_cache else 0
        self._sequences[sequence], self._epochs[sequence] = found, epoch
        return num_cached

    def fork(
        self, source: SequenceId, target: SequenceId, sampling: SamplingParams, *, epoch: Epoch = _FIRST_EPOCH
    ) -> None:
        """A second sequence with the committed tokens of the first, sharing its whole blocks."""
        if target in self._sequences:
            raise AlreadyExists(f"sequence {target} is open already")
        self.limits.check_sampling(sampling)
        forked, copies = self._find(source).fork(target, sampling)
        forked.allowed = self._allowed(sampling)
        self._queue(copies)
        self._sequences[target], self._epochs[target] = forked, epoch

    def close(self, sequence: SequenceId) -> None:
        """Forgets a sequence and frees its blocks."""
        self._find(sequence).release()
        del self._sequences[sequence], self._epochs[sequence]

    def commit(self, sequence: SequenceId, tokens: Items[int]) -> dict[int, int]:
        """Takes over tokens that were decided elsewhere; answers where surviving nodes are now (old to new index)."""
        self.limits.check_tokens(tokens, f"commit to sequence {sequence}")
        found = self._find(sequence)
        self.limits.check_length(len(found.tokens) + len(tokens), f"sequence {sequence} with {len(tokens)} more")
        survivors, copies = found.commit(tokens)
        self._queue(copies)
        return survivors

    def drop_nodes(self, sequence: SequenceId) -> None:
        """Forgets the tree of a sequence; its committed tokens stay."""
        self._find(sequence).drop_nodes()

    def tokens_of(self, sequence: SequenceId) -> tuple[int, ...]:
        """All committed tokens."""
        return tuple(self._find(sequence).tokens)

    def num_pending(self, sequence: SequenceId) -> int:
        """Committed tokens that are not computed yet."""
        return self._find(sequence).num_pending

    @property
    def num_free_blocks(self) -> int:
        """Cache blocks that could be taken now."""
        return self.pool.num_free

    # Steps

    def step(self, work: Items[Work], *, num_top: int = 1, hook: LayerHook | None = None) -> StepResult:
        """One pass over all rows that the work asks for; either all of it happens or, on an error, none of it.

        An outcome may be an error too: it concerns its sequence alone, which stays as it was before the step.
        `num_top` is how many candidates a proposal has; `hook` looks at the rows between layers (docs in LayerHook).
        """
        started_s = self._clock.now_s()
        self.check(work)
        num_more = self._num_more(work, hook)
        check_looks(num_top, hook.layers if hook is not None else (), len(self.executor.weights.layers))
        builder = BatchBuilder()
        with contextlib.ExitStack() as undo:
            spans = []
            for piece in work:
                sequence = self._find(piece.sequence)
                undo.callback(sequence.keep_nodes, len(sequence.nodes))
                spans.append(self._pack(builder, sequence, piece, num_more))
            output = self._execute(builder, spans, work, num_top, hook)
            outcomes = tuple(self._outcome(piece, span, output) for piece, span in zip(work, spans, strict=True))
            undo.pop_all()
        for span, outcome in zip(spans, outcomes, strict=True):
            self._settle(span, outcome)
        report = StepReport(
            num_rows=len(builder.tokens),
            num_context=self._num_context(builder.positions),
            num_sequences=len(work),
            elapsed_s=self._clock.now_s() - started_s,
            num_rows_pruned=output.num_rows_dropped,
            is_typical=output.is_typical,
        )
        return StepResult(outcomes=outcomes, report=report)

    def check(self, work: Items[Work]) -> None:
        """Refuses what `step` would refuse, and does nothing."""
        check_work(work, self._find, self.pool, self.limits)

    def _num_more(self, work: Items[Work], hook: LayerHook | None) -> int:
        """How many nodes the step puts there itself: where a single sequence drafts and chooses by noise alone."""
        piece = work[0]
        if len(work) > 1 or hook is not None or not isinstance(piece, Draft) or not piece.num_more:
            return 0
        sequence = self._find(piece.sequence)
        if not (self.executor.can_run_on and sequence.chooses_plainly):
            return 0
        return num_more_possible(piece, sequence, self.pool, self.limits)

    def _pack(self, builder: BatchBuilder, sequence: Sequence, piece: Work, num_more: int) -> Span:
        num_pending = sequence.num_pending if piece.num_pending is None else piece.num_pending
        nodes = tokens_and_parents(piece)
        if not isinstance(piece, Draft):
            return builder.add(sequence, num_pending, nodes, piece.masks)
        nodes += piece.own_nodes(len(sequence.nodes), num_more)
        return builder.add(sequence, num_pending, nodes, num_more=num_more, more_below=piece.more_below)

    def _execute(
        self, builder: BatchBuilder, spans: list[Span], work: Items[Work], num_top: int, hook: LayerHook | None
    ) -> StepOutput:
        message = builder.message(
            copies=self._copies,
            hook_layers=hook.layers if hook is not None else (),
            num_top=num_top,
            num_likeliest=max((span.sequence.sampling.num_logprobs for span in spans), default=0),
        )
        self._copies = []  # even if the step fails: it copies first, and a second time would read what it wrote since
        stay = _rows_that_stay(work, spans) if hook is not None else frozenset()
        if self.executor.ranks.size > 1:
            self.executor.ranks.send(message.encode())
        return self.executor.run(message, hook, stay)

    def _outcome(self, piece: Work, span: Span, output: StepOutput) -> Outcome:
        """What the step means for one sequence; changes nothing."""
        if isinstance(piece, Draft):
            return proposals_of(span, output)
        if span.num_choices == 0:
            return None
        return verdict_of(span, piece.nodes, self._epochs[span.sequence.id], output)

    def _settle(self, span: Span, outcome: Outcome) -> None:
        if isinstance(outcome, Internal):
            span.sequence.keep_nodes(span.first_node)
            return
        if isinstance(outcome, Drafted) and span.num_more:
            span.sequence.name_last_nodes(span.num_more, outcome.more)
        span.sequence.mark_computed(span.num_pending)
        if isinstance(outcome, Verdict):
            _, copies = span.sequence.commit(outcome.tokens, path=outcome.accepted)
            self._queue(copies)

    def _num_context(self, positions: list[int]) -> int:
        """Keys that rows at these positions attend, averaged over layers with and without a sliding window."""
        total = sum(
            num_layers * sum(min(window or self.limits.max_context, position + 1) for position in positions)
            for window, num_layers in self._windows.items()
        )
        return round(total / self._windows.total())

    def _allowed(self, sampling: SamplingParams) -> bytes | None:
        """The bit mask of `allowed_token_ids`."""
        if sampling.allowed_token_ids is None:
            return None
        mask = bytearray(-(-self.identity.vocab_size // 8))
        for token in sampling.allowed_token_ids:
            mask[token // 8] |= 1 << token % 8
        return bytes(mask)

    def _find(self, sequence: SequenceId) -> Sequence:
        found = self._sequences.get(sequence)
        if found is None:
            raise NotFound(f"sequence {sequence} is not open")
        return found

    def _queue(self, copies: list[tuple[int, int]]) -> None:
        """Copies of one call are independent of each other; those of later calls may read what these write."""
        if copies:
            self._copies += [len(copies), *(source for source, _ in copies), *(target for _, target in copies)]

    def shut_down(self) -> None:
        """Sends the other ranks home."""
        try:
            if self.executor.ranks.size > 1:
                self.executor.ranks.send(StepMessage.goodbye().encode())
        finally:
            self.executor.ranks.close()


class Follower:
    """A rank above 0: executes what rank 0 sends until it says goodbye or is lost."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def run(self) -> None:
        """Works until goodbye; RankLost when rank 0 or another rank is gone."""
        while (message := StepMessage.decode(self.executor.ranks.receive())).num_rows > 0:
            with contextlib.suppress(StepAbandoned):
                self.executor.run(message)
        self.executor.ranks.close()


def _rows_that_stay(work: Items[Work], spans: list[Span]) -> frozenset[int]:
    """Rows whose keys later steps will read: of committed tokens, and of drafts, which a commit may take over."""
    stay: set[int] = set()
    for piece, span in zip(work, spans, strict=True):
        count = span.num_pending + (span.num_nodes if isinstance(piece, Draft) else 0)
        stay.update(range(span.first_row, span.first_row + count))
    return frozenset(stay)
