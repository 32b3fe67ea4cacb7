"""Between wire types and the router's own: orders out, reports in. Believes nothing that comes in.

Whatever does not fit is an InvalidArgument that names the field: the sender is refused, and nobody else is disturbed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from contracts.config.names import NAME_HELP, is_name
from contracts.errors import InvalidArgument, shown
from contracts.sampling import MAX_NEW_TOKENS, SamplingParams
from contracts.types import (
    ROOT,
    DrafterId,
    DraftNode,
    Epoch,
    Feedback,
    ModelIdentity,
    SequenceId,
    StepReport,
    TokenLogprob,
    Verdict,
)
from router.orders import (
    Cached,
    Draft,
    DrafterOffer,
    DrafterOrders,
    Drafts,
    Evidence,
    Failure,
    Opened,
    RoundDone,
    RoundOrder,
    VerifierOffer,
    VerifierOrders,
)
from specfleet.v1 import fleet_pb2, types_pb2
from speculation.sequel import Sequel, SequelPart

__all__ = [
    "drafter_offer",
    "drafter_work",
    "drafts",
    "identity_of",
    "identity_to_wire",
    "logprob_of",
    "logprob_to_wire",
    "round_done",
    "sampling_to_wire",
    "verifier_offer",
    "verifier_work",
]

_MAX_NODES = 4096  # of one draft: more is no tree that anyone asked for
_MAX_PARTS = 4096  # drafts, steps or evidence in one message, tokens in one path
_MAX_CAPACITY = 65536  # sequences
_MAX_TREE = 64  # nodes of a sequence in a round, by what may be asked for; they lie in cache blocks of their own
_LEAST_S, _MOST_S = 1e-7, 3600.0  # for a step: no machine takes less or more
_WORDS = re.compile(r"[ -~]{0,200}", re.ASCII)


# Out


def verifier_work(orders: VerifierOrders) -> fleet_pb2.ToWorker:
    work = fleet_pb2.VerifierWork(
        close=[int(sequence) for sequence in orders.close], open=[_opening(each) for each in orders.open]
    )
    if orders.round is not None:
        work.round.CopyFrom(_round(orders.round))
    if orders.sequel is not None:
        work.sequel.CopyFrom(_sequel(orders.sequel))
    return fleet_pb2.ToWorker(verifier_work=work)


def drafter_work(orders: DrafterOrders) -> fleet_pb2.ToWorker:
    work = fleet_pb2.DrafterWork(
        close=[int(sequence) for sequence in orders.close],
        open=[_opening(each) for each in orders.open],
        commit=[
            fleet_pb2.Commit(
                sequence=int(news.sequence),
                epoch=news.epoch,
                position=news.position,
                tokens=news.tokens,
                logprobs=[logprob_to_wire(logprob) for logprob in news.logprobs],
            )
            for news in orders.commit
        ],
        want=[
            fleet_pb2.Want(
                sequence=int(wish.sequence),
                epoch=wish.epoch,
                position=wish.position,
                num_nodes=wish.num_nodes,
                below=wish.below,
                max_depth=wish.max_depth,
                max_children=wish.max_children,
                run_ahead=wish.run_ahead,
                num_eager=wish.num_eager,
                least_value=wish.least_value,
            )
            for wish in orders.want
        ],
    )
    return fleet_pb2.ToWorker(drafter_work=work)


def _round(order: RoundOrder) -> fleet_pb2.Round:
    items = []
    for item in order.items:
        items.append(
            fleet_pb2.Round.Item(
                sequence=int(item.sequence),
                epoch=item.epoch,
                position=item.position,
                num_pending=item.num_pending,
                nodes=_nodes_to_wire(item.nodes),
                masks=item.masks,
            )
        )
    return fleet_pb2.Round(round=order.round, items=items)


def _sequel(sequel: Sequel) -> fleet_pb2.Sequel:
    return fleet_pb2.Sequel(
        round=sequel.round,
        after=sequel.after,
        items=[
            fleet_pb2.Sequel.Item(
                sequence=int(item.sequence),
                epoch=item.epoch,
                position=item.position,
                nodes=_nodes_to_wire(item.nodes),
                max_nodes=item.max_nodes,
                num_left=item.num_left,
            )
            for item in sequel.items
        ],
        max_rows=sequel.max_rows,
        min_value=sequel.min_value,
        min_tokens=sequel.min_tokens,
    )


def _nodes_to_wire(nodes: Iterable[DraftNode]) -> list[fleet_pb2.DraftNode]:
    return [fleet_pb2.DraftNode(token=node.token, parent=node.parent, confidence=node.confidence) for node in nodes]


def _opening(opened: Opened) -> fleet_pb2.Opening:
    return fleet_pb2.Opening(
        sequence=int(opened.sequence),
        epoch=opened.epoch,
        tenant=opened.tenant,
        tokens=opened.tokens,
        num_prompt=opened.num_prompt,
        sampling=sampling_to_wire(opened.sampling),
        request=opened.request,
        trace=opened.trace,
    )


def sampling_to_wire(sampling: SamplingParams) -> types_pb2.Sampling:
    allowed = sampling.allowed_token_ids
    return types_pb2.Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias),
        allowed_token_ids=None if allowed is None else types_pb2.TokenIds(ids=allowed),
        seed=sampling.seed,
        num_logprobs=sampling.num_logprobs,
    )


def logprob_to_wire(logprob: TokenLogprob) -> types_pb2.TokenLogprob:
    return types_pb2.TokenLogprob(
        token=logprob.token,
        logprob=logprob.logprob,
        top=[types_pb2.TokenLogprob.Alternative(token=token, logprob=value) for token, value in logprob.top],
    )


def identity_to_wire(model: ModelIdentity) -> types_pb2.ModelIdentity:
    return types_pb2.ModelIdentity(
        name=model.name,
        architecture=model.architecture,
        vocab_size=model.vocab_size,
        tokenizer_digest=model.tokenizer_digest,
        weights_digest=model.weights_digest,
        dtype=model.dtype,
        num_parameters=model.num_parameters,
    )


# In


def verifier_offer(hello: fleet_pb2.VerifierHello) -> VerifierOffer:
    for name in ("num_ranks", "max_context", "max_batch_rows", "num_blocks", "block_tokens", "num_real_tokens"):
        if getattr(hello, name) < 1:
            raise InvalidArgument(f"the verifier's {name} is {getattr(hello, name)}; it is 1 or more")
    return VerifierOffer(
        name=hello.name or "verifier",
        model=identity_of(hello.model),
        num_ranks=hello.num_ranks,
        max_context=min(hello.max_context, _tokens_cached(hello)),
        max_batch_rows=hello.max_batch_rows,
        num_blocks=hello.num_blocks,
        block_tokens=hello.block_tokens,
        eos_token_ids=frozenset(hello.eos_token_ids),
        num_real_tokens=hello.num_real_tokens,
        probes=tuple(_report(report) for report in hello.probes),
        device=hello.device,
    )


def _tokens_cached(hello: fleet_pb2.VerifierHello) -> int:
    """Of one sequence that has the whole cache, beside its tree: what is longer could never end."""
    tree = -(-_MAX_TREE // hello.block_tokens)
    return max(hello.num_blocks - tree, 1) * hello.block_tokens


def drafter_offer(hello: fleet_pb2.DrafterHello) -> DrafterOffer:
    if not is_name(hello.name):
        raise InvalidArgument(f"a drafter joins as {shown(hello.name)}; give each a name of its own, of {NAME_HELP}")
    is_step = _is_time(hello.step_s) and hello.step_s >= _LEAST_S
    if not (hello.capacity >= 1 and is_step and _is_time(hello.prefill_s_per_token)):
        raise InvalidArgument(
            f"drafter {hello.name} says capacity {hello.capacity}, step_s {hello.step_s}, prefill_s_per_token "
            f"{hello.prefill_s_per_token}; right are 1 or more, a time of {_LEAST_S} or more, and a time"
        )
    for field, words in (("kind", hello.kind), ("device", hello.device)):
        if _WORDS.fullmatch(words) is None:
            raise InvalidArgument(
                f"drafter {hello.name} has {field} {shown(words)}; it must be at most 200 printable ASCII characters"
            )
    return DrafterOffer(
        drafter=DrafterId(hello.name),
        kind=hello.kind,
        model=identity_of(hello.model) if hello.HasField("model") else None,
        has_logits=hello.has_logits,
        num_logprobs=min(hello.num_logprobs, 64),
        capacity=min(hello.capacity, _MAX_CAPACITY),
        step_s=hello.step_s,
        prefill_s_per_token=hello.prefill_s_per_token,
        max_context=hello.max_context or MAX_NEW_TOKENS,  # who says nothing of it has no limit
        device=hello.device,
        remembers=hello.remembers,
    )


def round_done(done: fleet_pb2.RoundDone) -> RoundDone:
    return RoundDone(
        round=done.round,
        verdicts=tuple(_verdict(verdict) for verdict in done.verdicts),
        failures=tuple(
            Failure(
                sequence=SequenceId(str(failure.sequence)),
                epoch=Epoch(failure.epoch),
                code=failure.code,
                reason=failure.reason,
            )
            for failure in done.failures
        ),
        report=_report(done.report) if done.HasField("report") else None,
        began_s=done.began_s,
        num_free_blocks=done.num_free_blocks,
        cached=tuple(
            Cached(sequence=SequenceId(str(cached.sequence)), num_tokens=cached.num_tokens) for cached in done.cached
        ),
        going_on=tuple(
            SequelPart(
                sequence=SequenceId(str(going.sequence)),
                epoch=Epoch(going.epoch),
                position=going.position,
                chosen=tuple(going.nodes),
            )
            for going in done.going_on
        ),
    )


def drafts(message: fleet_pb2.Drafts, drafter: DrafterId, *, num_tokens: int) -> Drafts:
    """What a drafter sent; `num_tokens` is how many tokens there are."""
    if not (_is_time(message.began_s) and _is_time(message.ended_s)):
        raise InvalidArgument(f"drafter {drafter} drafted from {message.began_s} to {message.ended_s}; both are times")
    for part in ("drafts", "steps", "evidence"):
        _check_number(len(getattr(message, part)), drafter, f"{part} in one message")
    for draft in message.drafts:
        _check_number(len(draft.below), drafter, "tokens in the path of a draft")
    return Drafts(
        drafts=tuple(
            Draft(
                sequence=SequenceId(str(draft.sequence)),
                epoch=Epoch(draft.epoch),
                position=draft.position,
                below=tuple(draft.below),
                nodes=_nodes(draft.nodes, drafter, num_tokens),
                is_last=draft.is_last,
            )
            for draft in message.drafts
        ),
        steps=tuple(_report(step) for step in message.steps),
        began_s=message.began_s,
        ended_s=message.ended_s,
        evidence=tuple(_evidence(each, drafter) for each in message.evidence),
    )


def _check_number(number: int, drafter: DrafterId, what: str) -> None:
    if number > _MAX_PARTS:
        raise InvalidArgument(f"drafter {drafter} sends {number} {what}; at most {_MAX_PARTS} are read")


def _evidence(evidence: fleet_pb2.Evidence, drafter: DrafterId) -> Evidence:
    if not 0 < evidence.num_tokens <= _MAX_NODES or evidence.num_agreed > evidence.num_tokens:
        raise InvalidArgument(
            f"drafter {drafter} agrees with {evidence.num_agreed} of {evidence.num_tokens} tokens; right are 1 to "
            f"{_MAX_NODES} tokens, and no more than all of them"
        )
    return Evidence(
        sequence=SequenceId(str(evidence.sequence)),
        epoch=Epoch(evidence.epoch),
        num_tokens=evidence.num_tokens,
        num_agreed=evidence.num_agreed,
    )


def _nodes(nodes: Sequence[fleet_pb2.DraftNode], drafter: DrafterId, num_tokens: int) -> tuple[DraftNode, ...]:
    if len(nodes) > _MAX_NODES:
        raise InvalidArgument(f"drafter {drafter} sends {len(nodes)} nodes in one draft; at most {_MAX_NODES} are read")
    for index, node in enumerate(nodes):
        if node.token >= num_tokens:
            raise InvalidArgument(f"drafter {drafter} drafts token {node.token}; there are {num_tokens}")
        if not 0.0 <= node.confidence <= 1.0:  # NaN fails this too
            raise InvalidArgument(f"drafter {drafter} is {node.confidence} sure of a token; right is 0 to 1")
        if not ROOT <= node.parent < index:
            raise InvalidArgument(
                f"drafter {drafter} puts node {index} below {node.parent}; a parent is {ROOT} or an earlier node"
            )
    return tuple(
        DraftNode(token=node.token, parent=node.parent, confidence=node.confidence, drafter=drafter) for node in nodes
    )


def _verdict(verdict: fleet_pb2.Verdict) -> Verdict:
    return Verdict(
        sequence=SequenceId(str(verdict.sequence)),
        epoch=Epoch(verdict.epoch),
        position=verdict.position,
        accepted=tuple(verdict.accepted),
        tokens=tuple(verdict.tokens),
        logprobs=tuple(logprob_of(logprob) for logprob in verdict.logprobs),
        feedback=_feedback(verdict.pruned),
    )


def _feedback(pruned: Iterable[bool]) -> tuple[Feedback, ...]:
    """What the tree cannot know by itself: which nodes left the pass early."""
    return tuple(Feedback(parent_accepted=False, chosen=False, pruned=left) for left in pruned)


def logprob_of(logprob: types_pb2.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(
        token=logprob.token,
        logprob=logprob.logprob,
        top=tuple((alternative.token, alternative.logprob) for alternative in logprob.top),
    )


def _report(report: fleet_pb2.StepReport) -> StepReport:
    is_step = _LEAST_S <= report.elapsed_s <= _MOST_S  # NaN fails this too
    if not (is_step and report.num_rows >= 1 and report.num_sequences >= 1):
        raise InvalidArgument(
            f"a step of {report.num_rows} rows of {report.num_sequences} sequences took {report.elapsed_s} s; right "
            f"are 1 or more of each, and {_LEAST_S} to {_MOST_S:g} s"
        )
    return StepReport(
        num_rows=report.num_rows,
        num_context=report.num_context,
        num_sequences=report.num_sequences,
        elapsed_s=report.elapsed_s,
        num_rows_pruned=report.num_rows_pruned,
        is_typical=not report.is_untypical,
    )


def identity_of(model: types_pb2.ModelIdentity) -> ModelIdentity:
    return ModelIdentity(
        name=model.name,
        architecture=model.architecture,
        vocab_size=model.vocab_size,
        tokenizer_digest=model.tokenizer_digest,
        weights_digest=model.weights_digest,
        dtype=model.dtype,
        num_parameters=model.num_parameters,
    )


def _is_time(seconds: float) -> bool:
    return math.isfinite(seconds) and seconds >= 0.0
