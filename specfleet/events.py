"""What a client gets back, as plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Completion", "Model", "Started", "Statistics", "TokenEvent", "TopLogprob", "Usage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a choice took. Of the prompt's tokens, `num_cached_tokens` needed no computation."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """How speculation did on a choice, and how long it took, as the fleet measured it."""

    mode: str
    num_rounds: int
    num_draft_tokens: int
    num_accepted_tokens: int
    mean_acceptance_length: float
    """Tokens per round, the target's own included."""
    acceptance_histogram: tuple[int, ...]
    """Rounds by accepted tokens, from 0."""
    accepted_by_drafter: Mapping[str, int]
    time_to_first_token_s: float
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TopLogprob:
    """One of the target's likeliest tokens at a place, and its log-probability."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What the fleet says when it has accepted a request. With `seed` the request can be repeated."""

    num_prompt_tokens: int
    model: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One token of one choice. The last of a choice also says how it ended.

    `index` counts the tokens of a choice from 0 without a gap. `text` is what the token adds, and is empty while a
    character is incomplete or may become a stop string; what was held back comes with a later token. A choice that
    ends without any token still has its one, last event, in which `index` and `token_id` are None.
    """

    index: int | None
    token_id: int | None
    text: str
    drafter: str | None = None
    """Who guessed it; None: the target's own."""
    choice: int = 0
    logprob: float | None = None
    top_logprobs: tuple[TopLogprob, ...] = ()
    finish_reason: str | None = None
    """On the last event: stop, length, cancelled, deadline or error."""
    stop: str | None = None
    """On the last event: the stop string that was found."""
    usage: Usage | None = None
    statistics: Statistics | None = None
    received_s: float = field(default=0.0, compare=False)
    """When the token arrived, by `time.perf_counter`. The newest token is handed out when its successor or the end is
    known, so the moment in which an event is seen says less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer. `drafters` says of each token who guessed it; None: the target's own."""

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    drafters: tuple[str | None, ...]
    finish_reason: str
    seed: int
    usage: Usage
    statistics: Statistics
    events: tuple[TokenEvent, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that the fleet serves, and who drafts for it."""

    name: str
    architecture: str
    dtype: str
    num_parameters: int
    vocab_size: int
    max_context: int
    drafters: tuple[str, ...]
    is_ready: bool
    tokenizer_digest: str
    weights_digest: str
