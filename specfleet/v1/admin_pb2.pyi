from specfleet.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("version", "uptime_s", "model", "verifier", "drafters", "num_running", "num_waiting", "num_requests", "num_tokens", "tokens_per_s", "mean_acceptance_length", "num_rounds", "num_stale_messages", "is_draining", "rounds_by_frontier")
    class RoundsByFrontierEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_FIELD_NUMBER: _ClassVar[int]
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
    NUM_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    MEAN_ACCEPTANCE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    NUM_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    NUM_STALE_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    IS_DRAINING_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_BY_FRONTIER_FIELD_NUMBER: _ClassVar[int]
    version: str
    uptime_s: float
    model: _types_pb2.ModelIdentity
    verifier: VerifierStatus
    drafters: _containers.RepeatedCompositeFieldContainer[DrafterStatus]
    num_running: int
    num_waiting: int
    num_requests: int
    num_tokens: int
    tokens_per_s: float
    mean_acceptance_length: float
    num_rounds: int
    num_stale_messages: int
    is_draining: bool
    rounds_by_frontier: _containers.ScalarMap[int, int]
    def __init__(self, version: _Optional[str] = ..., uptime_s: _Optional[float] = ..., model: _Optional[_Union[_types_pb2.ModelIdentity, _Mapping]] = ..., verifier: _Optional[_Union[VerifierStatus, _Mapping]] = ..., drafters: _Optional[_Iterable[_Union[DrafterStatus, _Mapping]]] = ..., num_running: _Optional[int] = ..., num_waiting: _Optional[int] = ..., num_requests: _Optional[int] = ..., num_tokens: _Optional[int] = ..., tokens_per_s: _Optional[float] = ..., mean_acceptance_length: _Optional[float] = ..., num_rounds: _Optional[int] = ..., num_stale_messages: _Optional[int] = ..., is_draining: _Optional[bool] = ..., rounds_by_frontier: _Optional[_Mapping[int, int]] = ...) -> None: ...

class VerifierStatus(_message.Message):
    __slots__ = ("name", "state", "num_ranks", "device", "idle_share", "num_blocks", "num_free_blocks", "round_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NUM_RANKS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    IDLE_SHARE_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    ROUND_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    num_ranks: int
    device: str
    idle_share: float
    num_blocks: int
    num_free_blocks: int
    round_s: float
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., num_ranks: _Optional[int] = ..., device: _Optional[str] = ..., idle_share: _Optional[float] = ..., num_blocks: _Optional[int] = ..., num_free_blocks: _Optional[int] = ..., round_s: _Optional[float] = ...) -> None: ...

class DrafterStatus(_message.Message):
    __slots__ = ("name", "kind", "state", "device", "num_sequences", "num_draft_tokens", "num_accepted_tokens", "step_s", "idle_share", "calibration_error", "probe_acceptance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    NUM_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    IDLE_SHARE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    PROBE_ACCEPTANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    state: str
    device: str
    num_sequences: int
    num_draft_tokens: int
    num_accepted_tokens: int
    step_s: float
    idle_share: float
    calibration_error: float
    probe_acceptance: float
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., state: _Optional[str] = ..., device: _Optional[str] = ..., num_sequences: _Optional[int] = ..., num_draft_tokens: _Optional[int] = ..., num_accepted_tokens: _Optional[int] = ..., step_s: _Optional[float] = ..., idle_share: _Optional[float] = ..., calibration_error: _Optional[float] = ..., probe_acceptance: _Optional[float] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("worker",)
    WORKER_FIELD_NUMBER: _ClassVar[int]
    worker: str
    def __init__(self, worker: _Optional[str] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("workers",)
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, workers: _Optional[_Iterable[str]] = ...) -> None: ...

class DraftersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DraftersResponse(_message.Message):
    __slots__ = ("drafters",)
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    drafters: _containers.RepeatedCompositeFieldContainer[DrafterStatus]
    def __init__(self, drafters: _Optional[_Iterable[_Union[DrafterStatus, _Mapping]]] = ...) -> None: ...

class TimelineRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TimelineResponse(_message.Message):
    __slots__ = ("spans",)
    class Span(_message.Message):
        __slots__ = ("process", "name", "began_s", "ended_s", "round", "sequences", "num_rows")
        PROCESS_FIELD_NUMBER: _ClassVar[int]
        NAME_FIELD_NUMBER: _ClassVar[int]
        BEGAN_S_FIELD_NUMBER: _ClassVar[int]
        ENDED_S_FIELD_NUMBER: _ClassVar[int]
        ROUND_FIELD_NUMBER: _ClassVar[int]
        SEQUENCES_FIELD_NUMBER: _ClassVar[int]
        NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
        process: str
        name: str
        began_s: float
        ended_s: float
        round: int
        sequences: _containers.RepeatedScalarFieldContainer[int]
        num_rows: int
        def __init__(self, process: _Optional[str] = ..., name: _Optional[str] = ..., began_s: _Optional[float] = ..., ended_s: _Optional[float] = ..., round: _Optional[int] = ..., sequences: _Optional[_Iterable[int]] = ..., num_rows: _Optional[int] = ...) -> None: ...
    SPANS_FIELD_NUMBER: _ClassVar[int]
    spans: _containers.RepeatedCompositeFieldContainer[TimelineResponse.Span]
    def __init__(self, spans: _Optional[_Iterable[_Union[TimelineResponse.Span, _Mapping]]] = ...) -> None: ...

class MetricsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MetricsResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...
