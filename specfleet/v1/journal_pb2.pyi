from specfleet.v1 import inference_pb2 as _inference_pb2
from specfleet.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JournalRecord(_message.Message):
    __slots__ = ("version", "accepted", "committed", "ended")
    class Accepted(_message.Message):
        __slots__ = ("request_id", "tenant", "prompt", "sampling", "stop", "num_choices", "mode", "max_draft", "drafters", "priority", "json_schema", "model", "accepted_s", "deadline_s")
        REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
        TENANT_FIELD_NUMBER: _ClassVar[int]
        PROMPT_FIELD_NUMBER: _ClassVar[int]
        SAMPLING_FIELD_NUMBER: _ClassVar[int]
        STOP_FIELD_NUMBER: _ClassVar[int]
        NUM_CHOICES_FIELD_NUMBER: _ClassVar[int]
        MODE_FIELD_NUMBER: _ClassVar[int]
        MAX_DRAFT_FIELD_NUMBER: _ClassVar[int]
        DRAFTERS_FIELD_NUMBER: _ClassVar[int]
        PRIORITY_FIELD_NUMBER: _ClassVar[int]
        JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
        MODEL_FIELD_NUMBER: _ClassVar[int]
        ACCEPTED_S_FIELD_NUMBER: _ClassVar[int]
        DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
        request_id: str
        tenant: str
        prompt: _containers.RepeatedScalarFieldContainer[int]
        sampling: _types_pb2.Sampling
        stop: _inference_pb2.Stop
        num_choices: int
        mode: str
        max_draft: int
        drafters: _containers.RepeatedScalarFieldContainer[str]
        priority: int
        json_schema: str
        model: _types_pb2.ModelIdentity
        accepted_s: float
        deadline_s: float
        def __init__(self, request_id: _Optional[str] = ..., tenant: _Optional[str] = ..., prompt: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[_types_pb2.Sampling, _Mapping]] = ..., stop: _Optional[_Union[_inference_pb2.Stop, _Mapping]] = ..., num_choices: _Optional[int] = ..., mode: _Optional[str] = ..., max_draft: _Optional[int] = ..., drafters: _Optional[_Iterable[str]] = ..., priority: _Optional[int] = ..., json_schema: _Optional[str] = ..., model: _Optional[_Union[_types_pb2.ModelIdentity, _Mapping]] = ..., accepted_s: _Optional[float] = ..., deadline_s: _Optional[float] = ...) -> None: ...
    class Committed(_message.Message):
        __slots__ = ("choice", "first_index", "tokens", "drafters", "guessed_by", "logprobs")
        CHOICE_FIELD_NUMBER: _ClassVar[int]
        FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
        TOKENS_FIELD_NUMBER: _ClassVar[int]
        DRAFTERS_FIELD_NUMBER: _ClassVar[int]
        GUESSED_BY_FIELD_NUMBER: _ClassVar[int]
        LOGPROBS_FIELD_NUMBER: _ClassVar[int]
        choice: int
        first_index: int
        tokens: _containers.RepeatedScalarFieldContainer[int]
        drafters: _containers.RepeatedScalarFieldContainer[str]
        guessed_by: _containers.RepeatedScalarFieldContainer[int]
        logprobs: _containers.RepeatedCompositeFieldContainer[_types_pb2.TokenLogprob]
        def __init__(self, choice: _Optional[int] = ..., first_index: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., drafters: _Optional[_Iterable[str]] = ..., guessed_by: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[_types_pb2.TokenLogprob, _Mapping]]] = ...) -> None: ...
    class Ended(_message.Message):
        __slots__ = ("choice", "reason", "error", "num_cached", "statistics")
        CHOICE_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        ERROR_FIELD_NUMBER: _ClassVar[int]
        NUM_CACHED_FIELD_NUMBER: _ClassVar[int]
        STATISTICS_FIELD_NUMBER: _ClassVar[int]
        choice: int
        reason: _inference_pb2.FinishReason
        error: str
        num_cached: int
        statistics: _inference_pb2.SpeculationStatistics
        def __init__(self, choice: _Optional[int] = ..., reason: _Optional[_Union[_inference_pb2.FinishReason, str]] = ..., error: _Optional[str] = ..., num_cached: _Optional[int] = ..., statistics: _Optional[_Union[_inference_pb2.SpeculationStatistics, _Mapping]] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    version: int
    accepted: JournalRecord.Accepted
    committed: JournalRecord.Committed
    ended: JournalRecord.Ended
    def __init__(self, version: _Optional[int] = ..., accepted: _Optional[_Union[JournalRecord.Accepted, _Mapping]] = ..., committed: _Optional[_Union[JournalRecord.Committed, _Mapping]] = ..., ended: _Optional[_Union[JournalRecord.Ended, _Mapping]] = ...) -> None: ...
