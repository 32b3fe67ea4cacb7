"""What HTTP requests may say. Unknown keys are refused by name, so that a setting is never lost in silence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.sampling import MAX_LOGPROBS

__all__ = ["ChatRequest", "CompletionRequest", "GenerationSettings"]


class _Part(BaseModel):
    # Strict: `"max_tokens": true` is a mistake of the caller, and not 1.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class SpeculationSettings(_Part):
    """How this request is sped up. Whatever is chosen, its tokens are the same."""

    mode: Literal["off", "vanilla", "pearl", "fleet"] | None = None
    max_draft: Annotated[int, Field(ge=1, le=64)] | None = None
    drafters: Annotated[list[str], Field(max_length=64)] = []


class StreamOptions(_Part):
    include_usage: bool = False
    include_obfuscation: bool | None = None  # official clients may send it; there is nothing to hide here


class GenerationSettings(_Part):
    """What both kinds of completion share. Bounds are checked where they are known: in `contracts.sampling`."""

    model: str = ""
    temperature: float | None = 1.0
    top_p: float | None = 1.0
    n: int | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = 0.0
    frequency_penalty: float | None = 0.0
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    # Beyond OpenAI's: as other servers call them.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    priority: int = 0
    speculation: SpeculationSettings = SpeculationSettings()


class CompletionRequest(GenerationSettings):
    """`POST /v1/completions`."""

    prompt: str | list[int] | Annotated[list[str], Field(min_length=1, max_length=1)]
    max_tokens: int | None = 16
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: Literal[False] | None = False
    best_of: Literal[1] | None = None
    suffix: None = None


class ChatMessage(_Part):
    role: str
    content: str | list[TextPart]
    name: str | None = None


class TextPart(_Part):
    type: Literal["text"]
    text: str


class JsonSchema(_Part):
    name: str = "answer"
    description: str | None = None
    schema_: Annotated[dict[str, Any] | bool, Field(alias="schema")] = {}
    strict: bool | None = None


class ResponseFormat(_Part):
    """`json_object` is any JSON object; `json_schema` one that fits the schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class ChatRequest(GenerationSettings):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    response_format: ResponseFormat = ResponseFormat()


ChatMessage.model_rebuild()
