"""Generates with a verification rule for sampled drafts, one prompt at a time: for research, and to compare rules.

The drafter draws its tokens by a coin of its own and the rule judges them by both models' whole distributions, which
the service neither has nor needs. So the text is another than that of the shared noise, from the same distribution.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence, Set

from benchmarks.engine_model import EngineModel
from benchmarks.generation import Generated, Prompt, StepStatistics, opened_prompts
from contracts.errors import InvalidArgument
from contracts.types import SamplingParams, SequenceId, StopParams
from engine.load import LoadedEngine
from speculation.rules.coin import Coin, RandomCoin
from speculation.rules.compare import Shape, draw
from speculation.rules.registry import NamedRule

__all__ = ["generate_by_rule", "rounds_by_rule"]


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
    ends = frozenset(() if stop.ignore_eos else target.eos_token_ids)
    results, steps = [], StepStatistics()
    for prompt, tokens in opened_prompts(target, prompts, stop):
        coin = RandomCoin(random.Random(f"{sampling.seed}/{prompt.id}").random)
        generated, started_s = Generated(id=prompt.id), time.perf_counter()
        judge, guesser = (
            EngineModel(loaded.engine, SequenceId(f"{prompt.id} {part}"), tokens, temperature=sampling.temperature)
            for part, loaded in (("target", target), ("drafter", drafter))
        )
        try:
            for committed in rounds_by_rule(judge, guesser, rule, shape, coin, max_tokens=stop.max_tokens, ends=ends):
                generated.num_rounds += 1
                generated.token_ids += committed
        finally:
            judge.close()
            guesser.close()
        generated.elapsed_s = time.perf_counter() - started_s
        generated.text = target.tokenizer.decode(generated.token_ids, skip_special_tokens=True)
        for report in judge.reports:
            steps.add(report)
        results.append(generated)
    return results, steps


def rounds_by_rule(
    target: EngineModel,
    drafter: EngineModel,
    rule: NamedRule,
    shape: Shape,
    coin: Coin,
    *,
    max_tokens: int,
    ends: Set[int] = frozenset(),
) -> Iterator[list[int]]:
    """The tokens of each round, until there are `max_tokens` or one of `ends` was said."""
    num_left = max_tokens
    while num_left > 0:
        # The next token comes with every round, so a draft is one shorter than what is left; but rules want a draft.
        part = Shape(num_paths=shape.num_paths, depth=max(min(shape.depth, num_left - 1), 1))
        draft = draw(rule.kind, target, drafter, part, coin, prepare=target.compute)
        committed = rule.settle(draft, coin).committed(draft)
        for model in (target, drafter):
            model.commit(committed)
        tokens = list(committed[:num_left])
        end = next((index for index, token in enumerate(tokens) if token in ends), None)
        num_left = num_left - len(tokens) if end is None else 0
        yield tokens if end is None else tokens[: end + 1]
