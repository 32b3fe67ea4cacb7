"""What crosses the wire, as the values that the rooms hand each other, and back.

Nothing that arrives is believed: values are made by the types of `contracts`, which check themselves, and what they
refuse is an InvalidArgument. A sequence is a number on the wire and a name inside.
"""

from __future__ import annotations

from collections.abc import Iterable

from contracts.types import (
    DrafterId,
    DraftNode,
    Epoch,
    ModelIdentity,
    SamplingParams,
    SequenceId,
    StepReport,
    TenantId,
    TokenLogprob,
    Verdict,
)
from engine.work import Verify
from specfleet.v1 import fleet_pb2, types_pb2
from speculation.sequel import Sequel, SequelItem, SequelPart
from workers.drafters.drafter import Ask, Commit, Opening

__all__ = [
    "MAX_NODES",
    "answered_of",
    "ask_of",
    "commit_of",
    "going_to_wire",
    "identity_to_wire",
    "nodes_to_wire",
    "opening_of",
    "report_to_wire",
    "sampling_of",
    "sequel_of",
    "sequence_id",
    "verdict_to_wire",
    "verify_of",
]

MAX_NODES = 1024
"""More draft nodes than this are never drafted for one sequence: no round checks so many."""

_NOBODY = DrafterId("")  # who drafted what is the router's concern


# From the wire


def sequence_id(number: int) -> SequenceId:
    """The name of a sequence."""
    return SequenceId(str(number))


def sampling_of(message: types_pb2.Sampling) -> SamplingParams:
    """Checked on construction."""
    return SamplingParams(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else 1.0,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=dict(message.logit_bias),
        allowed_token_ids=tuple(message.allowed_token_ids.ids) if message.HasField("allowed_token_ids") else None,
        seed=message.seed,
        num_logprobs=message.num_logprobs,
    )


def opening_of(message: fleet_pb2.Opening) -> Opening:
    """A sequence as drafters take it: its prompt. What was answered already is theirs to commit, `answered_of`."""
    return Opening(
        sequence=sequence_id(message.sequence),
        tenant=TenantId(message.tenant),
        tokens=tuple(message.tokens[: message.num_prompt]),
        sampling=sampling_of(message.sampling),
    )


def answered_of(message: fleet_pb2.Opening) -> Commit | None:
    """What a sequence that begins again had answered before, which penalties must not take for its prompt."""
    if message.num_prompt >= len(message.tokens):
        return None
    return Commit(
        sequence=sequence_id(message.sequence),
        position=message.num_prompt,
        tokens=tuple(message.tokens[message.num_prompt :]),
    )


def verify_of(message: fleet_pb2.Round.Item) -> Verify:
    """An item of a round as the engine takes it. An empty mask allows everything."""
    return Verify(
        sequence=sequence_id(message.sequence),
        num_pending=message.num_pending if message.HasField("num_pending") else None,
        nodes=_nodes_of(message.nodes),
        masks=tuple(mask or None for mask in message.masks),
    )


def sequel_of(message: fleet_pb2.Sequel) -> Sequel:
    """What to go on with after a round."""
    return Sequel(
        round=message.round,
        after=message.after,
        items=tuple(
            SequelItem(
                sequence=sequence_id(item.sequence),
                epoch=Epoch(item.epoch),
                position=item.position,
                nodes=_nodes_of(item.nodes),
                max_nodes=item.max_nodes,
                num_left=item.num_left,
            )
            for item in message.items
        ),
        max_rows=message.max_rows,
        min_value=message.min_value,
        min_tokens=message.min_tokens,
    )


def _nodes_of(nodes: Iterable[fleet_pb2.DraftNode]) -> tuple[DraftNode, ...]:
    return tuple(
        DraftNode(token=node.token, parent=node.parent, confidence=node.confidence, drafter=_NOBODY) for node in nodes
    )


def commit_of(message: fleet_pb2.Commit, *, with_logprobs: bool) -> Commit:
    """Decided tokens as drafters take them; most have no use for log-probabilities, which take long to unpack."""
    return Commit(
        sequence=sequence_id(message.sequence),
        position=message.position,
        tokens=tuple(message.tokens),
        logprobs=tuple(map(_logprob_of, message.logprobs)) if with_logprobs else (),
    )


def ask_of(message: fleet_pb2.Want) -> Ask:
    """A wish as drafters take it."""
    return Ask(
        sequence=sequence_id(message.sequence),
        num_nodes=min(message.num_nodes, MAX_NODES),
        below=tuple(message.below),
        max_depth=message.max_depth or None,
        max_children=message.max_children or None,
        least_value=message.least_value,
    )


def _logprob_of(message: types_pb2.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(
        token=message.token, logprob=message.logprob, top=tuple((other.token, other.logprob) for other in message.top)
    )


# To the wire


def identity_to_wire(identity: ModelIdentity) -> types_pb2.ModelIdentity:
    """What a model is."""
    return types_pb2.ModelIdentity(
        name=identity.name,
        architecture=identity.architecture,
        vocab_size=identity.vocab_size,
        tokenizer_digest=identity.tokenizer_digest,
        weights_digest=identity.weights_digest,
        dtype=identity.dtype,
        num_parameters=identity.num_parameters,
    )


def report_to_wire(report: StepReport) -> fleet_pb2.StepReport:
    """What a step cost."""
    return fleet_pb2.StepReport(
        num_rows=report.num_rows,
        num_context=report.num_context,
        num_sequences=report.num_sequences,
        elapsed_s=report.elapsed_s,
        num_rows_pruned=report.num_rows_pruned,
        is_untypical=not report.is_typical,
    )


def verdict_to_wire(verdict: Verdict) -> fleet_pb2.Verdict:
    """What was decided. Of the feedback only what the router cannot tell from the verdict itself: who was pruned."""
    pruned = [node.pruned for node in verdict.feedback]
    return fleet_pb2.Verdict(
        sequence=int(verdict.sequence),
        epoch=verdict.epoch,
        position=verdict.position,
        accepted=verdict.accepted,
        tokens=verdict.tokens,
        logprobs=_logprobs_to_wire(verdict.logprobs),
        pruned=pruned if any(pruned) else (),
    )


def nodes_to_wire(nodes: Iterable[DraftNode]) -> list[fleet_pb2.DraftNode]:
    """Draft nodes, parents first."""
    return [fleet_pb2.DraftNode(token=node.token, parent=node.parent, confidence=node.confidence) for node in nodes]


def going_to_wire(part: SequelPart) -> fleet_pb2.Going:
    """What a sequel has begun with."""
    return fleet_pb2.Going(sequence=int(part.sequence), epoch=part.epoch, position=part.position, nodes=part.chosen)


def _logprobs_to_wire(logprobs: Iterable[TokenLogprob]) -> list[types_pb2.TokenLogprob]:
    return [
        types_pb2.TokenLogprob(
            token=found.token,
            logprob=found.logprob,
            top=[types_pb2.TokenLogprob.Alternative(token=token, logprob=value) for token, value in found.top],
        )
        for found in logprobs
    ]
