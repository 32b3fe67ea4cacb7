"""How large each part of a request may be. Checked before anything is computed, so that no size can hold the router up.

What `contracts/sampling.py` bounds (sampling and stop parameters) is within its limits on construction; what depends
on the target (tokens, context, drafters) is checked by the front door.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from contracts.errors import InvalidArgument, shown
from contracts.sampling import check_integer

__all__ = ["check_model", "check_prompt", "check_request", "check_request_id"]

MAX_PROMPT_CHARACTERS = 4 * 2**20
MAX_MESSAGES = 10_000
MAX_ROLE_CHARACTERS = 64
MAX_MODEL_CHARACTERS = 512
MAX_SCHEMA_CHARACTERS = 256 * 2**10
MAX_DRAFTERS = 64
MAX_PRIORITY = 1000
_REQUEST_ID = re.compile(r"[!-~]{0,128}", re.ASCII)

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]


def check_request(*, request_id: str, json_schema: str, drafters: Sequence[str], priority: int) -> None:
    """What a request says beside its prompt."""
    check_request_id(request_id)
    check_integer("priority", priority, -MAX_PRIORITY, MAX_PRIORITY)
    _check_size("json_schema", len(json_schema), MAX_SCHEMA_CHARACTERS, "characters")
    _check_size("drafters", len(drafters), MAX_DRAFTERS, "names")


def check_request_id(request_id: str) -> None:
    """It is written to the journal, and asked for again."""
    if _REQUEST_ID.fullmatch(request_id) is None:
        raise InvalidArgument(f"request_id is {shown(request_id)}; it must be at most 128 printable ASCII characters")


def check_model(model: str) -> None:
    """A name to compare with."""
    _check_size("model", len(model), MAX_MODEL_CHARACTERS, "characters")


def check_prompt(prompt: Prompt, *, max_context: int) -> None:
    """Texts by their characters, for tokens are what has to be computed; token ids by what the context holds."""
    if isinstance(prompt, str):
        _check_size("the prompt", len(prompt), MAX_PROMPT_CHARACTERS, "characters")
        return
    if not prompt or not isinstance(prompt[0], Mapping):
        _check_size("the prompt", len(prompt), max_context, "tokens")
        return
    _check_size("the chat", len(prompt), MAX_MESSAGES, "messages")
    num_characters = 0
    for message in prompt:
        assert isinstance(message, Mapping), "prompts hold messages or ids and no mixture"
        _check_size("a message's role", len(message["role"]), MAX_ROLE_CHARACTERS, "characters")
        num_characters += len(message["content"])
    _check_size("the chat", num_characters, MAX_PROMPT_CHARACTERS, "characters")


def _check_size(what: str, size: int, most: int, unit: str) -> None:
    if size > most:
        raise InvalidArgument(f"{what} has {size} {unit}; it may have at most {most}")
