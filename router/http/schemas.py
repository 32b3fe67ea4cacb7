"""What HTTP requests may say. Unknown keys are refused by name, so that a setting is never lost in silence."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from contracts.sampling import (
    MAX_BIAS,
    MAX_CHOICES,
    MAX_LOGPROBS,
    MAX_PENALTY,
    MAX_REPETITION_PENALTY,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
    MAX_TEMPERATURE,
    MIN_REPETITION_PENALTY,
    MIN_TEMPERATURE,
)

__all__ = ["ChatRequest", "CompletionRequest", "GenerationSettings"]


_MOST_PROMPTS = 64
_Item = TypeVar("_Item")
_Several = Annotated[list[_Item], Field(min_length=1, max_length=_MOST_PROMPTS)]


def _right(words: str) -> dict[str, Any]:
    """What errors say that a field must be, where its type says it badly."""
    return {"x-right": words}


_Empty = Annotated[list[Any], Field(max_length=0, json_schema_extra=_right("[]"))]
_NO_TOOLS = "Only null or empty: there are no tools"


class _Part(BaseModel):
    # Strict: `"max_tokens": true` is a mistake of the caller, and not 1.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class SpeculationSettings(_Part):
    """How this request is sped up. Whatever is chosen, its tokens are the same."""

    mode: Annotated[
        Literal["off", "vanilla", "pearl", "fleet"] | None,
        Field(description="How drafting and checking work together; none: as the fleet's file says"),
    ] = None
    max_draft: Annotated[
        Annotated[int, Field(ge=1, le=64)] | None,
        Field(description="Most guesses of a choice that one round checks, 1 to 64"),
    ] = None
    drafters: Annotated[
        list[str], Field(max_length=64, description="Names of the drafters that may guess; empty: all")
    ] = []


class StreamOptions(_Part):
    include_usage: Annotated[bool, Field(description="A last chunk with the usage")] = False
    include_obfuscation: Annotated[bool | None, Field(description="Taken and without effect")] = None


class GenerationSettings(_Part):
    """What both kinds of completion share. Bounds are checked where they are known: in `contracts.sampling`."""

    model: Annotated[str, Field(description="The fleet's model, as /v1/models names it; empty: whichever it is")] = ""
    temperature: Annotated[
        float | None,
        Field(description=f"0: always the likeliest token; else {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"),
    ] = 1.0
    top_p: Annotated[
        float | None, Field(description="Only the likeliest tokens that have this probability together")
    ] = 1.0
    n: Annotated[
        Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None,
        Field(description=f"So many answers, 1 to {MAX_CHOICES}; answer i has the seed plus i"),
    ] = 1
    stream: Annotated[bool | None, Field(description="Server-sent events, ended by [DONE]")] = False
    stream_options: Annotated[StreamOptions | None, Field(description="What a stream tells besides")] = None
    stop: Annotated[
        str | list[str] | None,
        Field(
            description=f"The text ends before any of these, at most {MAX_STOP_STRINGS}",
            json_schema_extra=_right("a text, a list of texts, or null"),
        ),
    ] = None
    seed: Annotated[int | None, Field(description="The same seed gives the same text; none: the fleet draws one")] = (
        None
    )
    presence_penalty: Annotated[
        float | None,
        Field(description=f"{-MAX_PENALTY:g} to {MAX_PENALTY:g}, taken from the logits of tokens generated before"),
    ] = 0.0
    frequency_penalty: Annotated[float | None, Field(description="The same, once for each time")] = 0.0
    logit_bias: Annotated[
        dict[str, float] | None,
        Field(
            description=f"Token ids and what is added to their logits, {-MAX_BIAS:g} to {MAX_BIAS:g}",
            json_schema_extra=_right('an object such as {"42": -1.5}, or null'),
        ),
    ] = None
    user: Annotated[str | None, Field(description="Taken and without effect: the API key says whose request it is")] = (
        None
    )
    # Beyond OpenAI's: as other servers call them.
    top_k: Annotated[int | None, Field(description="Only so many of the likeliest tokens; 0: all")] = None
    min_p: Annotated[float | None, Field(description="Only tokens at least this part as likely as the likeliest")] = (
        None
    )
    repetition_penalty: Annotated[
        float | None,
        Field(
            description=f"{MIN_REPETITION_PENALTY:g} to {MAX_REPETITION_PENALTY:g}; above 1, tokens of the text are "
            "less likely"
        ),
    ] = None
    stop_token_ids: Annotated[
        list[int] | None,
        Field(
            description=f"The text ends before any of these, at most {MAX_STOP_TOKEN_IDS}",
            json_schema_extra=_right("a list of token ids, or null"),
        ),
    ] = None
    ignore_eos: Annotated[bool, Field(description="The model's own end does not end the text")] = False
    priority: Annotated[int, Field(description="-1000 to 1000; higher goes first, as far as the tenant may")] = 0
    speculation: Annotated[
        SpeculationSettings, Field(description="How the answer is sped up; its tokens are the same")
    ] = SpeculationSettings()


class CompletionRequest(GenerationSettings):
    """`POST /v1/completions`."""

    model_config = ConfigDict(json_schema_extra=_right('an object such as {"prompt": "Hello", "max_tokens": 20}'))

    prompt: Annotated[
        str | list[int] | _Several[str] | _Several[list[int]],
        Field(
            description=f"A text, token ids, or a list of up to {_MOST_PROMPTS} of either, with n answers to each",
            json_schema_extra=_right(f"a text, a list of token ids, or a list of 1 to {_MOST_PROMPTS} of either"),
        ),
    ]
    max_tokens: Annotated[int | None, Field(description="At most so many tokens")] = 16
    logprobs: Annotated[
        Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None,
        Field(description=f"So many of the likeliest tokens beside each, 0 to {MAX_LOGPROBS}"),
    ] = None
    echo: Annotated[Literal[False] | None, Field(description="The prompt is not repeated: only false")] = False
    best_of: Annotated[Literal[1] | None, Field(description="Only 1")] = None
    suffix: Annotated[None, Field(description="Only null: nothing is filled in")] = None


class ChatMessage(_Part):
    """Also one that a client was given, which has all fields of OpenAI's; those of what is not here hold nothing."""

    role: Annotated[str, Field(description="Whatever the model's chat template knows")]
    content: Annotated[
        str | list[TextPart],
        Field(
            description="A text, or parts of type text; no images, no sound",
            json_schema_extra=_right('a text, or a list of parts such as {"type": "text", "text": "Hello"}'),
        ),
    ]
    name: Annotated[str | None, Field(description="Taken and without effect")] = None
    refusal: Annotated[None, Field(description="Only null: nothing is refused in words")] = None
    tool_calls: Annotated[_Empty | None, Field(description=_NO_TOOLS)] = None
    function_call: Annotated[None, Field(description="Only null: there are no tools")] = None
    audio: Annotated[None, Field(description="Only null: there is no sound")] = None
    annotations: Annotated[_Empty | None, Field(description="Only null or empty: nothing is quoted")] = None


class TextPart(_Part):
    type: Annotated[Literal["text"], Field(description="Only text")]
    text: Annotated[str, Field(description="The text")]


class JsonSchema(_Part):
    name: Annotated[str, Field(description="Taken and without effect")] = "answer"
    description: Annotated[str | None, Field(description="Taken and without effect")] = None
    schema_: Annotated[
        dict[str, Any] | bool, Field(alias="schema", description="The JSON schema that the answer fits")
    ] = {}
    strict: Annotated[
        bool | None, Field(description="Taken and without effect: an answer fits unless it is cut off")
    ] = None


class ResponseFormat(_Part):
    """`json_object` is any JSON object; `json_schema` one that fits the schema."""

    type: Annotated[
        Literal["text", "json_object", "json_schema"],
        Field(description="Text, any JSON object, or one that fits json_schema"),
    ] = "text"
    json_schema: Annotated[JsonSchema | None, Field(description="With type json_schema")] = None


class ChatRequest(GenerationSettings):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(
        json_schema_extra=_right('an object such as {"messages": [{"role": "user", "content": "Hello"}]}')
    )

    messages: Annotated[
        list[ChatMessage],
        Field(
            min_length=1,
            max_length=10_000,
            description="The conversation so far, 1 to 10,000",
            json_schema_extra=_right('a list of 1 to 10,000 messages such as {"role": "user", "content": "Hello"}'),
        ),
    ]
    max_tokens: Annotated[
        int | None, Field(description="At most so many tokens; none: as many as the context has room for")
    ] = None
    max_completion_tokens: Annotated[int | None, Field(description="The same, and goes before it")] = None
    logprobs: Annotated[bool | None, Field(description="Log-probabilities of the tokens")] = False
    top_logprobs: Annotated[
        Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None,
        Field(description=f"So many of the likeliest beside each, 0 to {MAX_LOGPROBS}; with logprobs"),
    ] = None
    response_format: Annotated[
        ResponseFormat | None, Field(description="Text, any JSON object, or JSON that fits a schema; none: text")
    ] = None
    tools: Annotated[_Empty | None, Field(description=_NO_TOOLS)] = None


ChatMessage.model_rebuild()
