"""One model on one group of ranks: open sequences, step, commit, close.

`Engine` is rank 0: it keeps the books (sequences, blocks), packs each step into one message and settles what comes back.
The other ranks run `Follower`, which only executes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence as Items

from contracts.clock import Clock, SystemClock
from contracts.errors import AlreadyExists, Internal, InvalidArgument, NotFound, OutOfBlocks
from contracts.types import (
    ROOT,
    Epoch,
    ModelIdentity,
    SamplingParams,
    SequenceId,
    StepReport,
    TenantId,
    TokenLogprob,
    Verdict,
)
from contracts.verdict import walk
from engine.batch import BatchBuilder, Span
from engine.blocks import BlockPool
from engine.executor import Executor, LayerHook, StepOutput
from engine.message import StepMessage
from engine.sampler import Sampled
from engine.sequence import Sequence
from engine.work import Candidate, Draft, Drafted, Outcome, Proposal, StepResult, Verify, Work, feedback_of

__all__ = ["Engine", "Follower"]

_DEFAULT_TENANT = TenantId("")


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
        self.max_context, self.max_batch_rows = max_context, max_batch_rows
        self.pool = BlockPool(executor.cache.num_blocks)
        self._prefix_cache = prefix_cache
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
        epoch: Epoch = Epoch(0),
    ) -> int:
        """Starts a sequence from committed tokens, and says how many of them the prefix cache already has.

        A sequence that is resumed passes prompt and answer so far, and `num_prompt` to tell them apart for penalties.
        Nothing is computed before the first step.
        """
        if sequence in self._sequences:
            raise AlreadyExists(f"sequence {sequence} is open already")
        self._check_tokens(tokens, f"sequence {sequence}")
        if not tokens:
            raise InvalidArgument(f"sequence {sequence} has no tokens; a prompt has at least one")
        if len(tokens) > self.max_context:
            raise InvalidArgument(f"sequence {sequence} has {len(tokens)} tokens; the context holds {self.max_context}")
        found = Sequence(
            id=sequence,
            tenant=tenant,
            sampling=self._checked(sampling),
            allowed=self._allowed(sampling),
            pool=self.pool,
            tokens=list(tokens),
            num_prompt=len(tokens) if num_prompt is None else num_prompt,
        )
        num_cached = found.adopt_prefix() if self._prefix_cache else 0
        self._sequences[sequence], self._epochs[sequence] = found, epoch
        return num_cached

    def fork(
        self, source: SequenceId, target: SequenceId, sampling: SamplingParams, *, epoch: Epoch = Epoch(0)
    ) -> None:
        """A second sequence with the committed tokens of the first, sharing its whole blocks."""
        if target in self._sequences:
            raise AlreadyExists(f"sequence {target} is open already")
        forked, copies = self._find(source).fork(target, self._checked(sampling))
        forked.allowed = self._allowed(sampling)
        self._queue(copies)
        self._sequences[target], self._epochs[target] = forked, epoch

    def close(self, sequence: SequenceId) -> None:
        """Forgets a sequence and frees its blocks."""
        self._find(sequence).release()
        del self._sequences[sequence], self._epochs[sequence]

    def commit(self, sequence: SequenceId, tokens: Items[int]) -> dict[int, int]:
        """Takes over tokens that were decided elsewhere; answers where surviving nodes are now (old to new index)."""
        self._check_tokens(tokens, f"commit to sequence {sequence}")
        found = self._find(sequence)
        if len(found.tokens) + len(tokens) > self.max_context:
            raise InvalidArgument(
                f"{len(tokens)} more tokens make sequence {sequence} longer than the context of {self.max_context}"
            )
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

        `num_top` is how many candidates a proposal has; `hook` looks at the rows between layers (docs in LayerHook).
        """
        started_s = self._clock.now_s()
        self._check_work(work)
        builder = BatchBuilder()
        spans = [self._pack(builder, piece) for piece in work]
        output = self._execute(builder, spans, work, num_top, hook)
        outcomes = tuple(self._settle(piece, span, output) for piece, span in zip(work, spans, strict=True))
        report = StepReport(
            num_rows=len(builder.tokens),
            num_context=sum(builder.positions) + len(builder.positions),
            num_sequences=len(work),
            elapsed_s=self._clock.now_s() - started_s,
            num_rows_pruned=output.num_rows_dropped,
        )
        return StepResult(outcomes=outcomes, report=report)

    def _pack(self, builder: BatchBuilder, piece: Work) -> Span:
        sequence = self._find(piece.sequence)
        num_pending = sequence.num_pending if piece.num_pending is None else piece.num_pending
        masks = piece.masks if isinstance(piece, Verify) else ()
        return builder.add(sequence, num_pending, _tokens_and_parents(piece), masks)

    def _execute(
        self, builder: BatchBuilder, spans: list[Span], work: Items[Work], num_top: int, hook: LayerHook | None
    ) -> StepOutput:
        likeliest = max((s.sequence.sampling.num_logprobs for s in spans), default=0)
        wants_logprobs = likeliest > 0 or any(isinstance(piece, Draft) for piece in work)
        message = builder.message(
            copies=self._copies,
            hook_layers=hook.layers if hook is not None else (),
            num_top=num_top,
            num_likeliest=likeliest if wants_logprobs else -1,
        )
        committed = frozenset(row for s in spans for row in range(s.first_row, s.first_row + s.num_pending))
        self.executor.ranks.send(message.encode()) if self.executor.ranks.size > 1 else None
        output = self.executor.run(message, hook, committed)
        self._copies = []
        return output

    def _settle(self, piece: Work, span: Span, output: StepOutput) -> Outcome:
        span.sequence.mark_computed(span.num_pending)
        if isinstance(piece, Draft):
            return self._drafted(span, output)
        if span.num_choices == 0:
            return None
        return self._verdict(piece, span, output)

    def _verdict(self, piece: Verify, span: Span, output: StepOutput) -> Verdict:
        sequence, sampled = span.sequence, _sampled(output)
        places = [output.choice_of.get(span.first_choice + i) for i in range(span.num_choices)]
        choices = [-1 if place is None else int(sampled.tokens[place, 0]) for place in places]
        pruned = frozenset(i - 1 for i, place in enumerate(places) if place is None)
        # A pruned node is no child of anybody: its keys stop between two layers, so it must not be accepted.
        tokens = [-2 if i in pruned else node.token for i, node in enumerate(piece.nodes)]
        accepted = walk(choices, tokens, [node.parent for node in piece.nodes])
        last = accepted[-1] + 1 if accepted else 0
        if choices[last] < 0:
            raise Internal(f"sequence {sequence.id} has no token to choose: its logits are not finite")
        position = len(sequence.tokens)
        decided = (*(piece.nodes[i].token for i in accepted), choices[last])
        logprobs = (
            tuple(_logprob(sampled, places[i]) for i in (0, *(a + 1 for a in accepted)))
            if sequence.sampling.num_logprobs
            else ()
        )
        _, copies = sequence.commit(decided, path=accepted)
        self._queue(copies)
        return Verdict(
            sequence=sequence.id,
            epoch=self._epochs[sequence.id],
            position=position,
            accepted=tuple(accepted),
            tokens=decided,
            logprobs=logprobs,
            feedback=feedback_of(piece.nodes, accepted, pruned),
        )

    def _drafted(self, span: Span, output: StepOutput) -> Drafted:
        if span.num_choices == 0:
            return Drafted(first_node=span.first_node, proposals=())
        sampled = _sampled(output)
        parents = [ROOT] if span.num_choices > span.num_nodes else []
        parents += range(span.first_node, span.first_node + span.num_nodes)
        places = [output.choice_of.get(span.first_choice + i) for i in range(span.num_choices)]
        return Drafted(
            first_node=span.first_node,
            proposals=tuple(
                Proposal(parent=parent, candidates=_candidates(sampled, place))
                for parent, place in zip(parents, places, strict=True)
                if place is not None
            ),
        )

    # Checks: everything that can be refused is refused before anything changes.

    def _check_work(self, work: Items[Work]) -> None:
        if not work:
            raise InvalidArgument("a step without work; give it at least one sequence")
        num_rows = num_blocks = 0
        seen: set[SequenceId] = set()
        for piece in work:
            sequence = self._find(piece.sequence)
            if piece.sequence in seen:
                raise InvalidArgument(f"sequence {piece.sequence} appears twice in one step")
            seen.add(piece.sequence)
            num_pending = self._check_pending(piece, sequence)
            self._check_nodes(piece, sequence, num_pending)
            parents = [parent for _, parent in _tokens_and_parents(piece)]
            num_rows += num_pending + len(parents)
            num_blocks += sequence.blocks_needed(num_pending, parents)
        if num_rows > self.max_batch_rows:
            raise InvalidArgument(f"a step of {num_rows} rows; max_batch_rows is {self.max_batch_rows}")
        if num_blocks > self.pool.num_free:
            raise OutOfBlocks(num_needed=num_blocks, num_free=self.pool.num_free)

    def _check_pending(self, piece: Work, sequence: Sequence) -> int:
        num_pending = sequence.num_pending if piece.num_pending is None else piece.num_pending
        least = 0 if isinstance(piece, Draft) and piece.nodes and sequence.num_pending == 0 else 1
        if not least <= num_pending <= sequence.num_pending:
            raise InvalidArgument(
                f"num_pending of sequence {sequence.id} is {num_pending}; it must be from {least} to {sequence.num_pending}"
            )
        return num_pending

    def _check_nodes(self, piece: Work, sequence: Sequence, num_pending: int) -> None:
        if not piece.nodes:
            if isinstance(piece, Verify):
                self._check_masks(piece)
            return
        if num_pending < sequence.num_pending:
            raise InvalidArgument(f"nodes of sequence {sequence.id} hang below a token that this step does not compute")
        if isinstance(piece, Verify) and sequence.nodes:
            raise InvalidArgument(f"sequence {sequence.id} has a tree of drafts; commit or drop it before a Verify")
        depths = [node.position + 1 - len(sequence.tokens) for node in sequence.nodes]
        for index, (token, parent) in enumerate(_tokens_and_parents(piece), start=len(sequence.nodes)):
            if not ROOT <= parent < index:
                raise InvalidArgument(
                    f"node {index} of sequence {sequence.id} has parent {parent}; it must be {ROOT} or an earlier node"
                )
            depths.append(1 if parent == ROOT else depths[parent] + 1)
            if not 0 <= token < self.executor.num_real_tokens:
                raise InvalidArgument(
                    f"node {index} of sequence {sequence.id} has token {token}; "
                    f"the vocabulary has {self.executor.num_real_tokens}"
                )
        if len(sequence.tokens) + max(depths) > self.max_context:
            raise InvalidArgument(
                f"nodes of sequence {sequence.id} reach position {len(sequence.tokens) + max(depths) - 1}; "
                f"the context holds {self.max_context}"
            )
        if isinstance(piece, Verify):
            self._check_masks(piece)

    def _check_masks(self, piece: Verify) -> None:
        if not piece.masks:
            return
        size = -(-self.identity.vocab_size // 8)
        if len(piece.masks) != 1 + len(piece.nodes):
            raise InvalidArgument(
                f"sequence {piece.sequence} has {len(piece.masks)} masks; one for its last token and each of "
                f"{len(piece.nodes)} nodes make {1 + len(piece.nodes)}"
            )
        for mask in piece.masks:
            if mask is not None and (len(mask) != size or not any(mask)):
                raise InvalidArgument(
                    f"a mask of sequence {piece.sequence} has {len(mask)} bytes, {sum(map(bool, mask))} of them not zero; "
                    f"it needs {size} bytes, and at least one token must be allowed"
                )

    def _check_tokens(self, tokens: Iterable[int], where: str) -> None:
        for token in tokens:
            if not 0 <= token < self.executor.num_real_tokens:
                raise InvalidArgument(
                    f"{where} holds token {token}; the vocabulary has {self.executor.num_real_tokens}"
                )

    def _checked(self, sampling: SamplingParams) -> SamplingParams:
        self._check_tokens(sampling.logit_bias, "logit_bias")
        self._check_tokens(sampling.allowed_token_ids or (), "allowed_token_ids")
        return sampling

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
        if self.executor.ranks.size > 1:
            self.executor.ranks.send(StepMessage.goodbye().encode())
        self.executor.ranks.close()


class Follower:
    """A rank above 0: executes what rank 0 sends until it says goodbye or is lost."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def run(self) -> None:
        """Works until goodbye; RankLost when rank 0 or another rank is gone."""
        while (message := StepMessage.decode(self.executor.ranks.receive())).num_rows > 0:
            self.executor.run(message)
        self.executor.ranks.close()


def _tokens_and_parents(piece: Work) -> list[tuple[int, int]]:
    if isinstance(piece, Draft):
        return list(piece.nodes)
    return [(node.token, node.parent) for node in piece.nodes]


def _sampled(output: StepOutput) -> Sampled:
    if output.sampled is None:
        raise Internal("a step was to decide something and sampled nothing")
    return output.sampled


def _candidates(sampled: Sampled, place: int) -> tuple[Candidate, ...]:
    if sampled.logprobs is None:
        raise Internal("proposals need log-probabilities")
    columns = (sampled.tokens[place].tolist(), sampled.values[place].tolist(), sampled.logprobs[place].tolist())
    return tuple(
        Candidate(token=token, value=value, logprob=logprob)
        for token, value, logprob in zip(*columns, strict=True)
        if token >= 0
    )


def _logprob(sampled: Sampled, place: int | None) -> TokenLogprob:
    if place is None or sampled.logprobs is None or sampled.likeliest is None:
        raise Internal("log-probabilities were wanted and not computed")
    values, tokens = sampled.likeliest
    return TokenLogprob(
        token=int(sampled.tokens[place, 0]),
        logprob=float(sampled.logprobs[place, 0]),
        top=tuple(zip(tokens[place].tolist(), values[place].tolist(), strict=True)),
    )
