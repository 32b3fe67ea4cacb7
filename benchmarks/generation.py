"""Generates for many prompts on one engine, without any network: the reference that the service is compared with."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.fleet import LocalFleet
from contracts.errors import Internal, InvalidArgument
from contracts.types import SamplingParams, SequenceId, StepReport, StopParams, Verdict
from engine.load import LoadedEngine
from engine.text.chat import ChatTemplate
from engine.work import Verify

__all__ = ["Generated", "Prompt", "StepStatistics", "generate", "opened_prompts", "read_prompts"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One record of a prompts file: a text, or messages of a chat."""

    id: str
    prompt: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    domain: str = ""
    """What it is about, where its maker said so."""


@dataclass(kw_only=True, slots=True)
class Generated:
    """What came out for one prompt; `elapsed_s` counts from when its turn came to its last token."""

    id: str
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    num_rounds: int = 0
    elapsed_s: float = 0.0


@dataclass(slots=True)
class StepStatistics:
    """How long steps took, by their number of rows."""

    elapsed_of: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    num_context: int = 0
    num_rows_pruned: int = 0

    def add(self, report: StepReport) -> None:
        self.elapsed_of[report.num_rows].append(report.elapsed_s)
        self.num_context += report.num_context
        self.num_rows_pruned += report.num_rows_pruned

    def summary(self) -> dict[str, Any]:
        every = [elapsed for times in self.elapsed_of.values() for elapsed in times]
        return {
            "num_steps": len(every),
            "num_rows": sum(rows * len(times) for rows, times in self.elapsed_of.items()),
            "num_rows_pruned": self.num_rows_pruned,
            "num_context": self.num_context,
            "elapsed_s": sum(every),
            "by_rows": {
                rows: {"num_steps": len(times), "median_s": statistics.median(times)}
                for rows, times in sorted(self.elapsed_of.items())
            },
        }


def read_prompts(path: Path) -> list[Prompt]:
    """Records {"id", "prompt"} or {"id", "messages"}, one a line; something else is refused by its line number."""
    prompts = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"cannot read prompts from {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prompts.append(_prompt_of(json.loads(line), number))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidArgument(
                f'{path} line {number} must be a record {{"id": ..., "prompt": "text"}}, or have "messages" for '
                f'"prompt"; got {line[:80]!r}'
            ) from error
    if not prompts:
        raise InvalidArgument(f"{path} holds no prompts")
    return prompts


def _prompt_of(record: Mapping[str, Any], number: int) -> Prompt:
    name, domain = str(record.get("id", number)), str(record.get("domain", ""))
    if "messages" in record:
        messages = tuple({"role": str(each["role"]), "content": str(each["content"])} for each in record["messages"])
        if not messages:
            raise TypeError("no messages")
        return Prompt(id=name, messages=messages, domain=domain)
    if not isinstance(record["prompt"], str) or not record["prompt"]:
        raise TypeError("prompt is not a text")
    return Prompt(id=name, prompt=record["prompt"], domain=domain)


@dataclass(slots=True)
class _Running:
    generated: Generated
    sequence: SequenceId
    started_s: float


def generate(
    loaded: LoadedEngine,
    prompts: Iterable[Prompt],
    sampling: SamplingParams,
    stop: StopParams,
    *,
    num_together: int = 1,
    fleet: LocalFleet | None = None,
) -> tuple[list[Generated], StepStatistics]:
    """All prompts in their order, `num_together` at a time: as one ends, the next begins.

    Prompts are read in chunks that share their steps with the sequences already decoding. With a `fleet` its drafts
    are checked along the way; the tokens are the same.
    """
    engine, step_statistics = loaded.engine, StepStatistics()
    results: list[Generated] = []
    waiting = deque(opened_prompts(loaded, prompts, stop))
    running: list[_Running] = []
    while waiting or running:
        while waiting and len(running) < num_together:
            prompt, tokens = waiting.popleft()
            sequence = SequenceId(f"{len(results)}:{prompt.id}")
            if fleet is None:
                engine.open(sequence, tokens, sampling)
            else:  # drafters may learn from more than the tokens; what the target would say anyway changes no token
                num_logprobs = max(sampling.num_logprobs, fleet.num_logprobs)
                engine.open(sequence, tokens, replace(sampling, num_logprobs=num_logprobs))
                fleet.open(sequence, tokens, sampling)
            running.append(_Running(Generated(id=prompt.id), sequence, time.perf_counter()))
            results.append(running[-1].generated)
        work = _share_rows(loaded, running)
        if fleet is not None:
            work = _with_drafts(loaded, work, running, stop, fleet)
        look = None if fleet is None else fleet.look(work)
        step = engine.step(work, hook=look)
        step_statistics.add(step.report)
        for outcome in step.outcomes:
            if isinstance(outcome, Internal):
                raise outcome
        if fleet is not None:
            fleet.learn(work, step, look)
        outcomes = {piece.sequence: outcome for piece, outcome in zip(work, step.outcomes, strict=True)}
        for one in list(running):
            outcome = outcomes.get(one.sequence)
            if not isinstance(outcome, Verdict):  # a chunk of a prompt, or no part in this step
                continue
            if _take(loaded, one, outcome, stop):
                engine.close(one.sequence)
                if fleet is not None:
                    fleet.close(one.sequence)
                running.remove(one)
    return results, step_statistics


def opened_prompts(loaded: LoadedEngine, prompts: Iterable[Prompt], stop: StopParams) -> list[tuple[Prompt, list[int]]]:
    """Every prompt as tokens; one that cannot fit is refused before any work is done."""
    wanted = list(prompts)
    chat = ChatTemplate.load(Path(loaded.config.model), loaded.tokenizer) if any(p.messages for p in wanted) else None
    encoded = [
        (prompt, chat.encode(prompt.messages) if chat and prompt.messages else loaded.tokenizer.encode(prompt.prompt))
        for prompt in wanted
    ]
    for prompt, tokens in encoded:
        if not tokens or len(tokens) + stop.max_tokens > loaded.engine.limits.max_context:
            raise InvalidArgument(
                f"prompt {prompt.id} has {len(tokens)} tokens; with {stop.max_tokens} to generate it must be from 1 "
                f"to {loaded.engine.limits.max_context - stop.max_tokens}"
            )
    return encoded


def _share_rows(loaded: LoadedEngine, running: Sequence[_Running]) -> list[Verify]:
    """One row for each sequence that decodes, and what is left of the step for the prompts that are being read."""
    engine = loaded.engine
    pending = [engine.num_pending(one.sequence) for one in running]
    left = engine.limits.max_batch_rows - sum(count == 1 for count in pending)
    work = []
    for one, count in zip(running, pending, strict=True):
        rows = count if count == 1 else min(count, left)
        if rows > 0:
            work.append(Verify(sequence=one.sequence, num_pending=rows))
            left -= rows if count > 1 else 0
    return work


def _with_drafts(
    loaded: LoadedEngine, work: Sequence[Verify], running: Sequence[_Running], stop: StopParams, fleet: LocalFleet
) -> list[Verify]:
    """The same work with draft nodes for those that decide a token; none deeper than tokens are left to decide."""
    generated = {one.sequence: len(one.generated.token_ids) for one in running}
    deciding = [piece.sequence for piece in work if piece.num_pending == loaded.engine.num_pending(piece.sequence)]
    room = loaded.engine.limits.max_batch_rows - sum(piece.num_pending or 0 for piece in work)
    depths = {sequence: stop.max_tokens - generated[sequence] - 1 for sequence in deciding}
    nodes = fleet.frontiers(depths, max_nodes=room)
    return [replace(piece, nodes=nodes.get(piece.sequence, ())) for piece in work]


def _take(loaded: LoadedEngine, one: _Running, verdict: Verdict, stop: StopParams) -> bool:
    """Adds the decided tokens; True when the sequence has ended."""
    generated = one.generated
    generated.num_rounds += 1
    ends = () if stop.ignore_eos else loaded.eos_token_ids
    has_ended = False
    for token in verdict.tokens:
        generated.token_ids.append(token)
        if token in ends or len(generated.token_ids) == stop.max_tokens:
            has_ended = True
            break
    if has_ended:
        generated.elapsed_s = time.perf_counter() - one.started_s
        generated.text = loaded.tokenizer.decode(generated.token_ids, skip_special_tokens=True)
    return has_ended
