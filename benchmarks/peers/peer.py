"""What a peer is: something that answers prompts given as token ids, and whose processes can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.peers.workloads import Question

__all__ = ["Ask", "Peer", "RouterWork", "Said", "is_ours"]

_THEIRS = ("hf-", "llamacpp-", "openvino-", "vllm-", "sglang-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """How the questions of a turn are asked."""

    max_tokens: int
    temperature: float
    seed: int
    together: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One answer, as the one who asked saw it."""

    token_ids: tuple[int, ...]
    first_token_s: float
    token_s: float | None
    """Mean time from one token to the next; None where there were fewer than two."""
    num_rounds: int
    """Passes of the target that decided tokens of it."""
    acceptance_histogram: tuple[int, ...]
    """Rounds by accepted draft tokens, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterWork:
    """What a router has done since it was started."""

    num_rounds: int
    busy_s: float


class Peer(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def max_together(self) -> int | None:
        """How many requests it takes at a time; None: any number."""

    def processes(self) -> list[int]:
        """Of all that it needs to answer, by process id."""

    def router_work(self) -> RouterWork | None:
        """None where it has no router."""

    async def answer(self, questions: Sequence[Question], ask: Ask) -> list[Said]:
        """In the order of the questions."""


def is_ours(name: str) -> bool:
    """Whether a peer is a mode of ours, by its name."""
    return not name.startswith(_THEIRS)
