"""Generates with a verification rule for sampled drafts, one prompt at a time: for research, and to compare rules.

The drafter draws its tokens by a coin of its own and the rule judges them by both models' whole distributions, which
the service neither has nor needs. So the text is another than that of the shared noise, from the same distribution.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from benchmarks.engine_model import EngineModel
from benchmarks.generation import Generated, Prompt, StepStatistics, opened_prompts
from contracts.errors import InvalidArgument
from contracts.types import SamplingParams, SequenceId, StopParams
from engine.load import LoadedEngine
from speculation.rules.coin import RandomCoin
from speculation.rules.compare import Shape, draw
from speculation.rules.registry import NamedRule

__all__ = ["generate_by_rule"]


def generate_by_rule(
    target: LoadedEngine,
    drafter: LoadedEngine,
    rule: NamedRule,
    shape: Shape,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    stop: StopParams,
) -> tuple[list[Generated], StepStatistics]:
    """All prompts in their order. Only temperature and seed of `sampling` have a meaning here."""
    if target.engine.executor.ranks.size > 1:
        raise InvalidArgument(
            f"rule {rule.name} needs the whole vocabulary on one rank; run it with --tp 1, not "
            f"{target.engine.executor.ranks.size}"
        )
    if sampling != SamplingParams(temperature=sampling.temperature, seed=sampling.seed):
        raise InvalidArgument(f"rule {rule.name} knows temperature and seed only; leave other sampling settings out")
    results, steps = [], StepStatistics()
    for prompt, tokens in opened_prompts(target, prompts, stop):
        coin = RandomCoin(random.Random(f"{sampling.seed}/{prompt.id}").random)
        sequence, started_s = SequenceId(prompt.id), time.perf_counter()
        models = [
            EngineModel(loaded.engine, sequence, tokens, temperature=sampling.temperature)
            for loaded in (target, drafter)
        ]
        generated = Generated(id=prompt.id)
        while not _has_ended(generated, target, stop):
            # No deeper than tokens are left; the next token comes with every round.
            depth = max(min(shape.depth, stop.max_tokens - len(generated.token_ids) - 1), 1)
            part = Shape(num_paths=shape.num_paths, depth=depth)
            draft = draw(rule.kind, models[0], models[1], part, coin, prepare=models[0].compute)
            committed = rule.settle(draft, coin).committed(draft)
            for model in models:
                model.commit(committed)
            generated.num_rounds += 1
            _append(generated, committed, target, stop)
        generated.elapsed_s = time.perf_counter() - started_s
        generated.text = target.tokenizer.decode(generated.token_ids, skip_special_tokens=True)
        for model in models:
            model.close()
        for report in models[0].reports:
            steps.add(report)
        results.append(generated)
    return results, steps


def _append(generated: Generated, tokens: Sequence[int], target: LoadedEngine, stop: StopParams) -> None:
    for token in tokens:
        if _has_ended(generated, target, stop):
            return
        generated.token_ids.append(token)


def _has_ended(generated: Generated, target: LoadedEngine, stop: StopParams) -> bool:
    ends = () if stop.ignore_eos else target.eos_token_ids
    found = generated.token_ids
    return len(found) == stop.max_tokens or (bool(found) and found[-1] in ends)
