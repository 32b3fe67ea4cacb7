"""OpenAI's completions as vLLM and SGLang speak them: token ids go in, and with `return_token_ids` come out.

An event is no round: a server that falls behind tells the tokens of several at once. So rounds are counted by what it
tells of its drafts at the end; a pass without drafts decides one token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.peers.peer import Ask, Said
from benchmarks.peers.server_process import Event
from benchmarks.peers.workloads import Question
from contracts.errors import Unavailable

__all__ = ["PATH", "body", "said_of"]

PATH = "/v1/completions"


def body(question: Question, ask: Ask) -> dict[str, Any]:
    return {
        "prompt": list(question.tokens),
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "seed": ask.seed,
        "top_p": 1.0,  # nothing that cuts the distribution, whatever a checkpoint suggests
        "top_k": -1,
        "repetition_penalty": 1.0,
        "return_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def said_of(events: Sequence[Event], accepted_in: Callable[[dict[str, Any]], Sequence[int] | None] | None) -> Said:
    """`accepted_in` finds the rounds by accepted draft tokens in an event that tells them; None: it drafts nothing."""
    tokens: list[int] = []
    times_s: list[float] = []
    accepted: list[int] | None = None if accepted_in else [0]
    for event, at_s in events:
        for choice in event["choices"]:
            if choice.get("token_ids") is None:
                raise Unavailable(f"an answer without token ids ({choice}); right is a server with return_token_ids")
            if choice["token_ids"]:
                tokens += choice["token_ids"]
                times_s.append(at_s)
        if accepted_in is not None and (found := accepted_in(event)) is not None:
            accepted = list(found) or [0]
    if not tokens:
        raise Unavailable("an answer without tokens; right is one at least")
    if accepted is None:
        raise Unavailable(
            "an answer that says nothing of its drafts; right is a server that tells how many it accepted"
        )
    # The last round may have brought more than was asked for.
    accepted[0] += max(len(tokens) - sum((1 + depth) * rounds for depth, rounds in enumerate(accepted)), 0)
    return Said(
        token_ids=tuple(tokens),
        first_token_s=times_s[0],
        token_s=(times_s[-1] - times_s[0]) / (len(tokens) - 1) if len(tokens) > 1 else None,
        num_rounds=sum(accepted),
        acceptance_histogram=tuple(accepted),
    )
