"""Makes a trace: the target answers, then each drafter reads along and says at every place what it would propose."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from benchmarks.generation import Prompt, generate, opened_prompts
from benchmarks.traces.trace import Request, TreeTable
from contracts.types import SamplingParams, SequenceId, StepReport, StopParams, TenantId
from engine.load import LoadedEngine
from workers.drafters.drafter import Ask, Commit, Drafter, Opening

__all__ = ["answered", "read_along"]

_TENANT = TenantId("trace")
_TOGETHER = 16


def answered(
    target: LoadedEngine, prompts: Sequence[Prompt], *, temperatures: Sequence[float], seed: int, max_tokens: int
) -> Iterator[Request]:
    """What the target answers. Every request has a seed of its own (`seed` and its number), as it has in a service."""
    stop, place = StopParams(max_tokens=max_tokens), 0
    opened = opened_prompts(target, prompts, stop)
    wanted = [(temperature, prompt, tokens) for temperature in temperatures for prompt, tokens in opened]
    for number, (temperature, prompt, tokens) in enumerate(wanted):
        sampling = SamplingParams(temperature=temperature, seed=seed + number)
        results, _ = generate(target, [prompt], sampling, stop)
        answer = tuple(results[0].token_ids)
        yield Request(
            domain=prompt.domain,
            temperature=temperature,
            seed=sampling.seed,
            prompt=tuple(tokens),
            answer=answer,
            first_place=place,
        )
        place += len(answer)


def read_along(
    drafter: Drafter, of: int, requests: Sequence[Request], trees: TreeTable, *, num_nodes: int, max_depth: int
) -> list[StepReport]:
    """Fills in one drafter's trees. Asks about several requests go together: that changes no answer, only the time.

    The reports are for drafters whose steps cannot be probed: each ask is a step then.
    """
    reports: list[StepReport] = []
    for first in range(0, len(requests), _TOGETHER):
        part = enumerate(requests[first : first + _TOGETHER], start=first)
        going = {SequenceId(f"{number}"): request for number, request in part}
        drafter.open(
            [
                Opening(
                    sequence=sequence,
                    tenant=_TENANT,
                    tokens=request.prompt,
                    sampling=SamplingParams(temperature=request.temperature, seed=request.seed),
                )
                for sequence, request in going.items()
            ]
        )
        for index in range(max(len(request.answer) for request in going.values())):
            for sequence in [sequence for sequence, request in going.items() if len(request.answer) == index]:
                drafter.close([sequence])
                del going[sequence]
            asks = [Ask(sequence=sequence, num_nodes=num_nodes, max_depth=max_depth) for sequence in going]
            began_s = time.perf_counter()
            answers = drafter.propose(asks)
            elapsed_s = time.perf_counter() - began_s
            num_keys = sum(len(request.prompt) + index for request in going.values())
            reports.append(
                StepReport(num_rows=len(asks), num_context=num_keys, num_sequences=len(asks), elapsed_s=elapsed_s)
            )
            for request, tree in zip(going.values(), answers, strict=True):
                trees.put(request.first_place + index, of, tree)
            drafter.commit(
                [
                    Commit(
                        sequence=sequence,
                        position=len(request.prompt) + index,
                        tokens=request.answer[index : index + 1],
                    )
                    for sequence, request in going.items()
                ]
            )
        drafter.close(list(going))
    return reports
