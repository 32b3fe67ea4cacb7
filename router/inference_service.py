"""The gRPC face to clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from contracts.errors import InvalidArgument
from router.answer import AnsweredToken, Reason
from router.asked import TRACE, Asked, Speculation, sampling_of, stop_of
from router.front import Front, Request
from router.grpc_errors import answers, streams
from router.merging import merged
from router.security.caller import caller
from router.statistics import request_statistics
from router.wire import identity_to_wire, logprob_to_wire
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import inference_pb2_grpc, types_pb2

__all__ = ["InferenceService"]

MODES: Mapping[int, str] = {
    types_pb2.MODE_OFF: "off",
    types_pb2.MODE_VANILLA: "vanilla",
    types_pb2.MODE_PEARL: "pearl",
    types_pb2.MODE_FLEET: "fleet",
}
_REASONS: Mapping[Reason, pb.FinishReason] = {
    Reason.STOP: pb.FINISH_REASON_STOP,
    Reason.LENGTH: pb.FINISH_REASON_LENGTH,
    Reason.CANCELLED: pb.FINISH_REASON_CANCELLED,
    Reason.DEADLINE: pb.FINISH_REASON_DEADLINE,
    Reason.ERROR: pb.FINISH_REASON_ERROR,
}


class InferenceService(inference_pb2_grpc.InferenceServicer):
    """Each method translates and stands before `Front`."""

    def __init__(self, front: Front) -> None:
        self._front = front

    @streams
    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        asked = _asked(request, context.time_remaining(), _trace_of(context))
        running = await self._front.generate(asked)
        yield pb.GenerateResponse(
            request_id=running.id,
            started=pb.Started(num_prompt_tokens=running.num_prompt_tokens, model=running.model, seed=running.seed),
        )
        async for response in self._stream(running, [0] * len(running.choices)):
            yield response

    @streams
    async def Resume(self, request: pb.ResumeRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        running = await self._front.find(request.request_id, caller().tenant)
        next_index = list(request.next_index)
        if len(next_index) != len(running.choices):
            raise InvalidArgument(
                f"next_index has {len(next_index)} entries; this request has {len(running.choices)} choices"
            )
        async for response in self._stream(running, next_index):
            yield response

    @answers
    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
        running = await self._front.find(request.request_id, caller().tenant)
        return pb.CancelResponse(was_running=self._front.cancel(running))

    @answers
    async def CountTokens(self, request: pb.CountTokensRequest, context: Any) -> pb.CountTokensResponse:
        prompt = request.prompt if request.WhichOneof("input") == "prompt" else _messages(request.chat)
        return pb.CountTokensResponse(num_tokens=await self._front.count_tokens(prompt, request.model))

    @answers
    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        offer = self._front.offer
        if offer is None:
            return pb.ListModelsResponse()
        model = pb.ListModelsResponse.Model(
            identity=identity_to_wire(offer.model),
            max_context=offer.max_context,
            drafters=[member.drafter for member in self._front.scheduler.roster.members],
            is_ready=self._front.is_ready,
        )
        return pb.ListModelsResponse(models=[model])

    async def _stream(self, running: Request, first: Sequence[int]) -> AsyncIterator[pb.GenerateResponse]:
        """All choices as their tokens come. One choice needs no task of its own."""
        choices = [self._choice(running, choice, first[choice]) for choice in range(len(running.choices))]
        async for response in merged(choices) if len(choices) > 1 else choices[0]:
            yield response

    async def _choice(self, running: Request, choice: int, first: int) -> AsyncIterator[pb.GenerateResponse]:
        index, num_logprobs = first, running.choices[choice].sequence.sampling.num_logprobs
        async for tokens in self._front.read(running, choice, first):
            said = [_token(token, num_logprobs) for token in tokens]
            yield pb.GenerateResponse(
                request_id=running.id, tokens=pb.Tokens(choice=choice, first_index=index, tokens=said)
            )
            index += len(tokens)
        yield pb.GenerateResponse(request_id=running.id, finished=_finished(running, choice))


def _token(token: AnsweredToken, num_logprobs: int) -> pb.Token:
    """With as many log-probabilities as were asked for; drafters may have wanted more."""
    logprob = token.logprob if num_logprobs else None
    return pb.Token(
        token_id=token.token,
        text=token.text,
        drafter=token.drafter or "",
        logprob=None if logprob is None else logprob_to_wire(replace(logprob, top=logprob.top[:num_logprobs])),
    )


def _finished(running: Request, choice: int) -> pb.Finished:
    of = running.choices[choice]
    ended = of.answer.ended
    assert ended is not None, "a read ends when the choice has"
    return pb.Finished(
        choice=choice,
        reason=_REASONS[ended.reason],
        text=ended.text,
        error=ended.error,
        stop=ended.stop,
        usage=pb.Usage(
            num_prompt_tokens=running.num_prompt_tokens,
            num_cached_tokens=of.sequence.num_cached or 0,
            num_completion_tokens=len(of.answer.tokens),
        ),
        statistics=request_statistics(running, of),
    )


def _trace_of(context: Any) -> str:
    return next((str(value) for key, value in context.invocation_metadata() or () if key == TRACE), "")


def _asked(request: pb.GenerateRequest, deadline_s: float | None, trace: str) -> Asked:
    sampling, speculation = request.sampling, request.speculation
    if speculation.mode and speculation.mode not in MODES:
        raise InvalidArgument(f"speculation.mode is {speculation.mode}; modes are numbered 0 to {max(MODES)}")
    return Asked(
        prompt=_prompt(request),
        sampling=sampling_of(sampling),
        stop=stop_of(request.stop),
        seed=sampling.seed if sampling.HasField("seed") else None,
        request_id=request.request_id,
        model=request.model,
        num_choices=max(request.num_choices, 1),
        speculation=Speculation(
            mode=MODES.get(speculation.mode),
            max_draft=speculation.max_draft if speculation.HasField("max_draft") else None,
            drafters=tuple(speculation.drafters),
        ),
        priority=request.priority,
        deadline_s=deadline_s,
        tenant=caller().tenant,
        json_schema=request.json_schema,
        trace=trace,
    )


def _prompt(request: pb.GenerateRequest) -> str | Sequence[int] | Sequence[Mapping[str, str]]:
    match request.WhichOneof("input"):
        case "prompt":
            return request.prompt
        case "token_ids":
            return list(request.token_ids.ids)
        case "chat":
            return _messages(request.chat)
        case _:
            raise InvalidArgument("the request has no input; give prompt, token_ids or chat")


def _messages(chat: pb.Chat) -> list[Mapping[str, str]]:
    return [{"role": message.role, "content": message.content} for message in chat.messages]
