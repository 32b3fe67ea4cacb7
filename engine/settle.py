"""From the sampled tokens of a step to what it means for each sequence: a verdict, or proposals."""

from __future__ import annotations

from contracts.errors import Internal
from contracts.types import ROOT, DraftNode, Epoch, Feedback, TokenLogprob, Verdict
from contracts.verdict import walk
from engine.batch import Span
from engine.executor import StepOutput
from engine.sampler import SampledNumbers
from engine.work import Candidate, Drafted, Proposal

__all__ = ["proposals_of", "verdict_of"]

# Stand-ins that equal no token and no other: below a row that left the pass nothing is chosen, and the node of such a
# row is nobody's child, because its keys end between two layers.
_NO_CHOICE, _NO_TOKEN = -1, -2


def verdict_of(span: Span, nodes: tuple[DraftNode, ...], epoch: Epoch, output: StepOutput) -> Verdict | Internal:
    """Walks the frontier by the target's own choices; an error is returned, for it is no other sequence's concern."""
    sequence, sampled = span.sequence, _sampled(output)
    places = _places(span, output)
    choices = [_NO_CHOICE if place is None else sampled.tokens[place][0] for place in places]
    pruned = frozenset(index - 1 for index, place in enumerate(places) if place is None)
    tokens = [_NO_TOKEN if index in pruned else node.token for index, node in enumerate(nodes)]
    accepted = walk(choices, tokens, [node.parent for node in nodes])
    along = [ROOT, *accepted]
    own = choices[1 + along[-1]]
    if own == _NO_CHOICE:
        return Internal(f"sequence {sequence.id} has no token to choose: its logits are not finite")
    return Verdict(
        sequence=sequence.id,
        epoch=epoch,
        position=len(sequence.tokens),
        accepted=tuple(accepted),
        tokens=(*(nodes[index].token for index in accepted), own),
        logprobs=_logprobs(span, sampled, [places[1 + index] for index in along]),
        feedback=_feedback(nodes, accepted, pruned),
    )


def proposals_of(span: Span, output: StepOutput) -> Drafted:
    """The candidates below each row that was asked."""
    if span.num_choices == 0:
        return Drafted(first_node=span.first_node, proposals=())
    sampled = _sampled(output)
    parents = [ROOT] if span.num_choices > span.num_nodes else []
    parents += range(span.first_node, span.first_node + span.num_nodes)
    proposals = [
        Proposal(parent=parent, candidates=_candidates(sampled, place))
        for parent, place in zip(parents, _places(span, output), strict=True)
        if place is not None
    ]
    more = output.more
    return Drafted(
        first_node=span.first_node, proposals=tuple(proposals[: len(proposals) - span.num_more + len(more)]), more=more
    )


def _places(span: Span, output: StepOutput) -> list[int | None]:
    """For each choice of the span its row in what was sampled, None where the row left the pass."""
    return [output.choice_of.get(span.first_choice + index) for index in range(span.num_choices)]


def _feedback(nodes: tuple[DraftNode, ...], accepted: list[int], pruned: frozenset[int]) -> tuple[Feedback, ...]:
    """What the round found out about each node of a frontier."""
    chosen, reached = set(accepted), {ROOT, *accepted}
    return tuple(
        Feedback(parent_accepted=node.parent in reached, chosen=index in chosen, pruned=index in pruned)
        for index, node in enumerate(nodes)
    )


def _sampled(output: StepOutput) -> SampledNumbers:
    if output.sampled is None:
        raise Internal("a step was to decide something and sampled nothing")
    return output.sampled


def _candidates(sampled: SampledNumbers, place: int) -> tuple[Candidate, ...]:
    tokens, values = sampled.tokens[place], sampled.values[place]
    return tuple(Candidate(token=token, value=value) for token, value in zip(tokens, values, strict=True) if token >= 0)


def _logprobs(span: Span, sampled: SampledNumbers, places: list[int | None]) -> tuple[TokenLogprob, ...]:
    """As many of the likeliest as this sequence asked for, whatever others in the batch did."""
    count = span.sequence.sampling.num_logprobs
    return tuple(_logprob(sampled, place, count) for place in places) if count > 0 else ()


def _logprob(sampled: SampledNumbers, place: int | None, count: int) -> TokenLogprob:
    if place is None or sampled.logprobs is None or sampled.likeliest is None:
        raise Internal("log-probabilities were wanted and not computed")
    values, tokens = sampled.likeliest
    return TokenLogprob(
        token=sampled.tokens[place][0],
        logprob=sampled.logprobs[place][0],
        top=tuple(
            (token, value)
            for token, value in zip(tokens[place][:count], values[place][:count], strict=True)
            if token >= 0
        ),
    )
