"""Records as bytes and back: protobuf, with a version. What another version wrote is refused, never guessed at."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import DecodeError

from contracts.errors import InvalidArgument
from contracts.types import DrafterId, TenantId
from router.answer import Reason
from router.asked import Asked, Speculation, sampling_of, stop_of
from router.journal.records import Accepted, Committed, Ended, Record
from router.sequence import SequenceFigures
from router.wire import identity_of, identity_to_wire, logprob_of, logprob_to_wire, sampling_to_wire
from specfleet.v1 import inference_pb2
from specfleet.v1.journal_pb2 import JournalRecord

__all__ = ["VERSION", "decoded", "encoded"]

VERSION = 1

_REASONS: Mapping[Reason, inference_pb2.FinishReason] = {
    Reason.STOP: inference_pb2.FINISH_REASON_STOP,
    Reason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
    Reason.CANCELLED: inference_pb2.FINISH_REASON_CANCELLED,
    Reason.DEADLINE: inference_pb2.FINISH_REASON_DEADLINE,
    Reason.ERROR: inference_pb2.FINISH_REASON_ERROR,
}
_REASON_OF = {int(number): reason for reason, number in _REASONS.items()}


def encoded(record: Record) -> bytes:
    """For the store."""
    match record:
        case Accepted():
            message = JournalRecord(version=VERSION, accepted=_accepted_to_wire(record))
        case Committed():
            message = JournalRecord(version=VERSION, committed=_committed_to_wire(record))
        case Ended():
            message = JournalRecord(version=VERSION, ended=_ended_to_wire(record))
    return message.SerializeToString()


def decoded(content: bytes) -> Record:
    """From the store; InvalidArgument for what no router of this version wrote."""
    try:
        message = JournalRecord.FromString(content)
    except DecodeError as error:
        raise InvalidArgument(f"the journal has a record of {len(content)} bytes that is none: {error}") from error
    if message.version != VERSION:
        raise InvalidArgument(
            f"the journal has a record of version {message.version}; this router reads version {VERSION}, so let the "
            "router that wrote it finish its requests first"
        )
    match message.WhichOneof("record"):
        case "accepted":
            return _accepted(message.accepted)
        case "committed":
            return _committed(message.committed)
        case "ended":
            return _ended(message.ended)
        case _:
            raise InvalidArgument("the journal has an empty record; it was not written by a router")


def _accepted_to_wire(record: Accepted) -> JournalRecord.Accepted:
    asked = record.asked
    return JournalRecord.Accepted(
        request_id=asked.request_id,
        tenant=asked.tenant,
        prompt=record.prompt,
        sampling=sampling_to_wire(asked.sampling),
        stop=inference_pb2.Stop(
            max_tokens=asked.stop.max_tokens,
            strings=asked.stop.stop,
            token_ids=asked.stop.stop_token_ids,
            ignore_eos=asked.stop.ignore_eos,
        ),
        num_choices=asked.num_choices,
        mode=asked.speculation.mode,
        max_draft=asked.speculation.max_draft,
        drafters=asked.speculation.drafters,
        priority=asked.priority,
        json_schema=asked.json_schema,
        model=identity_to_wire(record.model),
        accepted_s=record.accepted_s,
        deadline_s=asked.deadline_s,
    )


def _accepted(message: JournalRecord.Accepted) -> Accepted:
    prompt, sampling = tuple(message.prompt), sampling_of(message.sampling)
    asked = Asked(
        prompt=prompt,
        sampling=sampling,
        stop=stop_of(message.stop),
        seed=sampling.seed,
        request_id=message.request_id,
        model=message.model.name,
        num_choices=message.num_choices,
        speculation=Speculation(
            mode=message.mode,
            max_draft=message.max_draft if message.HasField("max_draft") else None,
            drafters=tuple(message.drafters),
        ),
        priority=message.priority,
        deadline_s=message.deadline_s if message.HasField("deadline_s") else None,
        tenant=TenantId(message.tenant),
        json_schema=message.json_schema,
    )
    return Accepted(asked=asked, prompt=prompt, model=identity_of(message.model), accepted_s=message.accepted_s)


def _committed_to_wire(record: Committed) -> JournalRecord.Committed:
    number: dict[DrafterId | None, int] = {None: 0}
    guessed_by = [number.setdefault(drafter, len(number)) for drafter in record.guessed_by]
    return JournalRecord.Committed(
        choice=record.choice,
        first_index=record.first_index,
        tokens=record.tokens,
        drafters=[drafter for drafter in number if drafter is not None],
        guessed_by=guessed_by,
        logprobs=[logprob_to_wire(logprob) for logprob in record.logprobs],
    )


def _committed(message: JournalRecord.Committed) -> Committed:
    drafters = [None, *map(DrafterId, message.drafters)]
    if len(message.guessed_by) != len(message.tokens) or max(message.guessed_by, default=0) >= len(drafters):
        raise InvalidArgument("the journal has tokens of which it does not say who guessed them")
    if len(message.logprobs) not in (0, len(message.tokens)):
        raise InvalidArgument("the journal has tokens of which only some have a log-probability")
    return Committed(
        choice=message.choice,
        first_index=message.first_index,
        tokens=tuple(message.tokens),
        guessed_by=tuple(drafters[number] for number in message.guessed_by),
        logprobs=tuple(logprob_of(logprob) for logprob in message.logprobs),
    )


def _ended_to_wire(record: Ended) -> JournalRecord.Ended:
    figures = record.figures
    return JournalRecord.Ended(
        choice=record.choice,
        reason=_REASONS[record.reason],
        error=record.error,
        num_cached=record.num_cached,
        statistics=inference_pb2.SpeculationStatistics(
            num_rounds=figures.num_rounds,
            num_draft_tokens=figures.num_draft_tokens,
            num_accepted_tokens=figures.num_accepted_tokens,
            acceptance_histogram=figures.rounds_by_accepted,
            accepted_by_drafter={str(drafter): count for drafter, count in figures.accepted_by_drafter.items()},
            time_to_first_token_s=record.first_token_s,
            elapsed_s=record.elapsed_s,
        ),
    )


def _ended(message: JournalRecord.Ended) -> Ended:
    told = message.statistics
    if (reason := _REASON_OF.get(message.reason)) is None:
        raise InvalidArgument(f"the journal has an end for reason {message.reason}, which this router does not know")
    return Ended(
        choice=message.choice,
        reason=reason,
        error=message.error,
        num_cached=message.num_cached,
        figures=SequenceFigures(
            num_rounds=told.num_rounds,
            num_draft_tokens=told.num_draft_tokens,
            num_accepted_tokens=told.num_accepted_tokens,
            rounds_by_accepted=list(told.acceptance_histogram),
            accepted_by_drafter={DrafterId(name): count for name, count in told.accepted_by_drafter.items()},
        ),
        first_token_s=told.time_to_first_token_s,
        elapsed_s=told.elapsed_s,
    )
