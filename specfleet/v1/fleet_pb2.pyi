from specfleet.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FromWorker(_message.Message):
    __slots__ = ("verifier_hello", "drafter_hello", "round_done", "drafts", "memory")
    VERIFIER_HELLO_FIELD_NUMBER: _ClassVar[int]
    DRAFTER_HELLO_FIELD_NUMBER: _ClassVar[int]
    ROUND_DONE_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    verifier_hello: VerifierHello
    drafter_hello: DrafterHello
    round_done: RoundDone
    drafts: Drafts
    memory: MemoryPart
    def __init__(self, verifier_hello: _Optional[_Union[VerifierHello, _Mapping]] = ..., drafter_hello: _Optional[_Union[DrafterHello, _Mapping]] = ..., round_done: _Optional[_Union[RoundDone, _Mapping]] = ..., drafts: _Optional[_Union[Drafts, _Mapping]] = ..., memory: _Optional[_Union[MemoryPart, _Mapping]] = ...) -> None: ...

class VerifierHello(_message.Message):
    __slots__ = ("name", "model", "num_ranks", "max_context", "max_batch_rows", "num_blocks", "block_tokens", "eos_token_ids", "num_real_tokens", "probes", "tokenizer_files", "device")
    class TokenizerFilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NUM_RANKS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_REAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FILES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: _types_pb2.ModelIdentity
    num_ranks: int
    max_context: int
    max_batch_rows: int
    num_blocks: int
    block_tokens: int
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    num_real_tokens: int
    probes: _containers.RepeatedCompositeFieldContainer[StepReport]
    tokenizer_files: _containers.ScalarMap[str, bytes]
    device: str
    def __init__(self, name: _Optional[str] = ..., model: _Optional[_Union[_types_pb2.ModelIdentity, _Mapping]] = ..., num_ranks: _Optional[int] = ..., max_context: _Optional[int] = ..., max_batch_rows: _Optional[int] = ..., num_blocks: _Optional[int] = ..., block_tokens: _Optional[int] = ..., eos_token_ids: _Optional[_Iterable[int]] = ..., num_real_tokens: _Optional[int] = ..., probes: _Optional[_Iterable[_Union[StepReport, _Mapping]]] = ..., tokenizer_files: _Optional[_Mapping[str, bytes]] = ..., device: _Optional[str] = ...) -> None: ...

class DrafterHello(_message.Message):
    __slots__ = ("name", "kind", "model", "has_logits", "num_logprobs", "capacity", "step_s", "prefill_s_per_token", "max_context", "device", "remembers")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    HAS_LOGITS_FIELD_NUMBER: _ClassVar[int]
    NUM_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    PREFILL_S_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    REMEMBERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    model: _types_pb2.ModelIdentity
    has_logits: bool
    num_logprobs: int
    capacity: int
    step_s: float
    prefill_s_per_token: float
    max_context: int
    device: str
    remembers: bool
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., model: _Optional[_Union[_types_pb2.ModelIdentity, _Mapping]] = ..., has_logits: _Optional[bool] = ..., num_logprobs: _Optional[int] = ..., capacity: _Optional[int] = ..., step_s: _Optional[float] = ..., prefill_s_per_token: _Optional[float] = ..., max_context: _Optional[int] = ..., device: _Optional[str] = ..., remembers: _Optional[bool] = ...) -> None: ...

class StepReport(_message.Message):
    __slots__ = ("num_rows", "num_context", "num_sequences", "elapsed_s", "num_rows_pruned", "is_untypical")
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    NUM_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    NUM_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    NUM_ROWS_PRUNED_FIELD_NUMBER: _ClassVar[int]
    IS_UNTYPICAL_FIELD_NUMBER: _ClassVar[int]
    num_rows: int
    num_context: int
    num_sequences: int
    elapsed_s: float
    num_rows_pruned: int
    is_untypical: bool
    def __init__(self, num_rows: _Optional[int] = ..., num_context: _Optional[int] = ..., num_sequences: _Optional[int] = ..., elapsed_s: _Optional[float] = ..., num_rows_pruned: _Optional[int] = ..., is_untypical: _Optional[bool] = ...) -> None: ...

class RoundDone(_message.Message):
    __slots__ = ("round", "verdicts", "failures", "report", "began_s", "num_free_blocks", "cached", "going_on")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    BEGAN_S_FIELD_NUMBER: _ClassVar[int]
    NUM_FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    GOING_ON_FIELD_NUMBER: _ClassVar[int]
    round: int
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    failures: _containers.RepeatedCompositeFieldContainer[Failure]
    report: StepReport
    began_s: float
    num_free_blocks: int
    cached: _containers.RepeatedCompositeFieldContainer[Cached]
    going_on: _containers.RepeatedCompositeFieldContainer[Going]
    def __init__(self, round: _Optional[int] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[Failure, _Mapping]]] = ..., report: _Optional[_Union[StepReport, _Mapping]] = ..., began_s: _Optional[float] = ..., num_free_blocks: _Optional[int] = ..., cached: _Optional[_Iterable[_Union[Cached, _Mapping]]] = ..., going_on: _Optional[_Iterable[_Union[Going, _Mapping]]] = ...) -> None: ...

class Going(_message.Message):
    __slots__ = ("sequence", "epoch", "position", "nodes")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    position: int
    nodes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., position: _Optional[int] = ..., nodes: _Optional[_Iterable[int]] = ...) -> None: ...

class Cached(_message.Message):
    __slots__ = ("sequence", "num_tokens")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    num_tokens: int
    def __init__(self, sequence: _Optional[int] = ..., num_tokens: _Optional[int] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("sequence", "epoch", "position", "accepted", "tokens", "logprobs", "pruned")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PRUNED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    position: int
    accepted: _containers.RepeatedScalarFieldContainer[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[_types_pb2.TokenLogprob]
    pruned: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., position: _Optional[int] = ..., accepted: _Optional[_Iterable[int]] = ..., tokens: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[_types_pb2.TokenLogprob, _Mapping]]] = ..., pruned: _Optional[_Iterable[bool]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("sequence", "epoch", "code", "reason")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    code: str
    reason: str
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Drafts(_message.Message):
    __slots__ = ("drafts", "steps", "began_s", "ended_s", "evidence")
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BEGAN_S_FIELD_NUMBER: _ClassVar[int]
    ENDED_S_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    drafts: _containers.RepeatedCompositeFieldContainer[Draft]
    steps: _containers.RepeatedCompositeFieldContainer[StepReport]
    began_s: float
    ended_s: float
    evidence: _containers.RepeatedCompositeFieldContainer[Evidence]
    def __init__(self, drafts: _Optional[_Iterable[_Union[Draft, _Mapping]]] = ..., steps: _Optional[_Iterable[_Union[StepReport, _Mapping]]] = ..., began_s: _Optional[float] = ..., ended_s: _Optional[float] = ..., evidence: _Optional[_Iterable[_Union[Evidence, _Mapping]]] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("sequence", "epoch", "num_tokens", "num_agreed")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_AGREED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    num_tokens: int
    num_agreed: int
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., num_tokens: _Optional[int] = ..., num_agreed: _Optional[int] = ...) -> None: ...

class Draft(_message.Message):
    __slots__ = ("sequence", "epoch", "position", "below", "nodes", "is_last")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    BELOW_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    position: int
    below: _containers.RepeatedScalarFieldContainer[int]
    nodes: _containers.RepeatedCompositeFieldContainer[DraftNode]
    is_last: bool
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., position: _Optional[int] = ..., below: _Optional[_Iterable[int]] = ..., nodes: _Optional[_Iterable[_Union[DraftNode, _Mapping]]] = ..., is_last: _Optional[bool] = ...) -> None: ...

class DraftNode(_message.Message):
    __slots__ = ("token", "parent", "confidence")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    token: int
    parent: int
    confidence: float
    def __init__(self, token: _Optional[int] = ..., parent: _Optional[int] = ..., confidence: _Optional[float] = ...) -> None: ...

class MemoryPart(_message.Message):
    __slots__ = ("tenant", "content", "is_last")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    content: bytes
    is_last: bool
    def __init__(self, tenant: _Optional[str] = ..., content: _Optional[bytes] = ..., is_last: _Optional[bool] = ...) -> None: ...

class ToWorker(_message.Message):
    __slots__ = ("welcome", "verifier_work", "drafter_work", "drain", "memory_wanted", "memory", "target")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_WORK_FIELD_NUMBER: _ClassVar[int]
    DRAFTER_WORK_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    MEMORY_WANTED_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    verifier_work: VerifierWork
    drafter_work: DrafterWork
    drain: Drain
    memory_wanted: MemoryWanted
    memory: MemoryPart
    target: Target
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., verifier_work: _Optional[_Union[VerifierWork, _Mapping]] = ..., drafter_work: _Optional[_Union[DrafterWork, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., memory_wanted: _Optional[_Union[MemoryWanted, _Mapping]] = ..., memory: _Optional[_Union[MemoryPart, _Mapping]] = ..., target: _Optional[_Union[Target, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("router",)
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    router: str
    def __init__(self, router: _Optional[str] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Target(_message.Message):
    __slots__ = ("tokenizer_digest",)
    TOKENIZER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    tokenizer_digest: str
    def __init__(self, tokenizer_digest: _Optional[str] = ...) -> None: ...

class MemoryWanted(_message.Message):
    __slots__ = ("tenant", "max_bytes", "part_bytes")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    PART_BYTES_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    max_bytes: int
    part_bytes: int
    def __init__(self, tenant: _Optional[str] = ..., max_bytes: _Optional[int] = ..., part_bytes: _Optional[int] = ...) -> None: ...

class Opening(_message.Message):
    __slots__ = ("sequence", "epoch", "tenant", "tokens", "num_prompt", "sampling", "request", "trace")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    tenant: str
    tokens: _containers.RepeatedScalarFieldContainer[int]
    num_prompt: int
    sampling: _types_pb2.Sampling
    request: str
    trace: str
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., tenant: _Optional[str] = ..., tokens: _Optional[_Iterable[int]] = ..., num_prompt: _Optional[int] = ..., sampling: _Optional[_Union[_types_pb2.Sampling, _Mapping]] = ..., request: _Optional[str] = ..., trace: _Optional[str] = ...) -> None: ...

class VerifierWork(_message.Message):
    __slots__ = ("close", "open", "round", "sequel")
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SEQUEL_FIELD_NUMBER: _ClassVar[int]
    close: _containers.RepeatedScalarFieldContainer[int]
    open: _containers.RepeatedCompositeFieldContainer[Opening]
    round: Round
    sequel: Sequel
    def __init__(self, close: _Optional[_Iterable[int]] = ..., open: _Optional[_Iterable[_Union[Opening, _Mapping]]] = ..., round: _Optional[_Union[Round, _Mapping]] = ..., sequel: _Optional[_Union[Sequel, _Mapping]] = ...) -> None: ...

class Sequel(_message.Message):
    __slots__ = ("round", "after", "items", "max_rows", "min_value", "min_tokens")
    class Item(_message.Message):
        __slots__ = ("sequence", "epoch", "position", "nodes", "max_nodes", "num_left")
        SEQUENCE_FIELD_NUMBER: _ClassVar[int]
        EPOCH_FIELD_NUMBER: _ClassVar[int]
        POSITION_FIELD_NUMBER: _ClassVar[int]
        NODES_FIELD_NUMBER: _ClassVar[int]
        MAX_NODES_FIELD_NUMBER: _ClassVar[int]
        NUM_LEFT_FIELD_NUMBER: _ClassVar[int]
        sequence: int
        epoch: int
        position: int
        nodes: _containers.RepeatedCompositeFieldContainer[DraftNode]
        max_nodes: int
        num_left: int
        def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., position: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[DraftNode, _Mapping]]] = ..., max_nodes: _Optional[int] = ..., num_left: _Optional[int] = ...) -> None: ...
    ROUND_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    MIN_VALUE_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    round: int
    after: int
    items: _containers.RepeatedCompositeFieldContainer[Sequel.Item]
    max_rows: int
    min_value: float
    min_tokens: float
    def __init__(self, round: _Optional[int] = ..., after: _Optional[int] = ..., items: _Optional[_Iterable[_Union[Sequel.Item, _Mapping]]] = ..., max_rows: _Optional[int] = ..., min_value: _Optional[float] = ..., min_tokens: _Optional[float] = ...) -> None: ...

class Round(_message.Message):
    __slots__ = ("round", "items")
    class Item(_message.Message):
        __slots__ = ("sequence", "epoch", "position", "num_pending", "nodes", "masks")
        SEQUENCE_FIELD_NUMBER: _ClassVar[int]
        EPOCH_FIELD_NUMBER: _ClassVar[int]
        POSITION_FIELD_NUMBER: _ClassVar[int]
        NUM_PENDING_FIELD_NUMBER: _ClassVar[int]
        NODES_FIELD_NUMBER: _ClassVar[int]
        MASKS_FIELD_NUMBER: _ClassVar[int]
        sequence: int
        epoch: int
        position: int
        num_pending: int
        nodes: _containers.RepeatedCompositeFieldContainer[DraftNode]
        masks: _containers.RepeatedScalarFieldContainer[bytes]
        def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., position: _Optional[int] = ..., num_pending: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[DraftNode, _Mapping]]] = ..., masks: _Optional[_Iterable[bytes]] = ...) -> None: ...
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    round: int
    items: _containers.RepeatedCompositeFieldContainer[Round.Item]
    def __init__(self, round: _Optional[int] = ..., items: _Optional[_Iterable[_Union[Round.Item, _Mapping]]] = ...) -> None: ...

class DrafterWork(_message.Message):
    __slots__ = ("close", "open", "commit", "want")
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    WANT_FIELD_NUMBER: _ClassVar[int]
    close: _containers.RepeatedScalarFieldContainer[int]
    open: _containers.RepeatedCompositeFieldContainer[Opening]
    commit: _containers.RepeatedCompositeFieldContainer[Commit]
    want: _containers.RepeatedCompositeFieldContainer[Want]
    def __init__(self, close: _Optional[_Iterable[int]] = ..., open: _Optional[_Iterable[_Union[Opening, _Mapping]]] = ..., commit: _Optional[_Iterable[_Union[Commit, _Mapping]]] = ..., want: _Optional[_Iterable[_Union[Want, _Mapping]]] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("sequence", "epoch", "position", "tokens", "logprobs")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    position: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[_types_pb2.TokenLogprob]
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., position: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[_types_pb2.TokenLogprob, _Mapping]]] = ...) -> None: ...

class Want(_message.Message):
    __slots__ = ("sequence", "epoch", "position", "num_nodes", "below", "max_depth", "max_children", "run_ahead", "num_eager", "least_value")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    NUM_NODES_FIELD_NUMBER: _ClassVar[int]
    BELOW_FIELD_NUMBER: _ClassVar[int]
    MAX_DEPTH_FIELD_NUMBER: _ClassVar[int]
    MAX_CHILDREN_FIELD_NUMBER: _ClassVar[int]
    RUN_AHEAD_FIELD_NUMBER: _ClassVar[int]
    NUM_EAGER_FIELD_NUMBER: _ClassVar[int]
    LEAST_VALUE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    epoch: int
    position: int
    num_nodes: int
    below: _containers.RepeatedScalarFieldContainer[int]
    max_depth: int
    max_children: int
    run_ahead: bool
    num_eager: int
    least_value: float
    def __init__(self, sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., position: _Optional[int] = ..., num_nodes: _Optional[int] = ..., below: _Optional[_Iterable[int]] = ..., max_depth: _Optional[int] = ..., max_children: _Optional[int] = ..., run_ahead: _Optional[bool] = ..., num_eager: _Optional[int] = ..., least_value: _Optional[float] = ...) -> None: ...
