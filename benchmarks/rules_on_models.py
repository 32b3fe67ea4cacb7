"""Verification rules side by side on real models: the same places in the target's own answers for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from benchmarks.engine_model import EngineModel
from benchmarks.generation import Prompt, generate, opened_prompts
from contracts.types import SamplingParams, SequenceId, StopParams
from engine.load import LoadedEngine
from speculation.rules.compare import Shape, mean_shared_noise, mean_tokens
from speculation.rules.registry import NamedRule

__all__ = ["contexts_of", "means_on_models"]

_APART = 8  # tokens between two places of an answer: more than a round commits, so that they are not alike


def contexts_of(
    target: LoadedEngine,
    prompts: Sequence[Prompt],
    *,
    num_contexts: int,
    temperature: float,
    seed: int,
    depth: int,
) -> list[list[int]]:
    """Places in what the target answers at this temperature, spread evenly over the prompts; room is left for `depth`
    more tokens below each."""
    each = -(-num_contexts // len(prompts))
    opened = opened_prompts(target, prompts, StopParams(max_tokens=_APART * each + depth))
    stop = StopParams(max_tokens=_APART * each, ignore_eos=True)
    answers, _ = generate(target, prompts, SamplingParams(temperature=temperature, seed=seed), stop)
    contexts = [
        [*tokens, *answer.token_ids[: _APART * place]]
        for place in range(each)
        for (_, tokens), answer in zip(opened, answers, strict=True)
    ]
    return contexts[:num_contexts]


def means_on_models(
    target: LoadedEngine,
    drafter: LoadedEngine,
    contexts: Sequence[Sequence[int]],
    rules: Sequence[NamedRule],
    shape: Shape,
    *,
    temperature: float,
    num_rounds: int,
    seed: int,
) -> dict[str, float]:
    """Mean tokens per round over all contexts, by rule. The house's rule is run as it is served: its form for sampled
    drafts computes with every pair of tokens."""
    means: dict[str, list[float]] = {}
    one_path = Shape(num_paths=1, depth=shape.depth)
    for number, context in enumerate(contexts):
        judge, guesser = (
            EngineModel(loaded.engine, SequenceId(f"context {number} {part}"), context, temperature=temperature)
            for part, loaded in (("target", target), ("drafter", drafter))
        )
        try:
            of_context = mean_tokens(
                judge,
                guesser,
                shape,
                num_rounds=num_rounds,
                seed=seed + number,
                rules=[rule for rule in rules if rule.name != "shared_noise"],
                prepare=judge.compute,
            )
            for label, part in (("shared_noise", one_path), ("shared_noise, runners-up", shape)):
                of_context[label] = mean_shared_noise(
                    judge, guesser, part, num_rounds=num_rounds, seed=seed + number, prepare=judge.compute
                )
        finally:
            judge.close()
            guesser.close()
        for label, mean in of_context.items():
            means.setdefault(label, []).append(mean)
    return {label: fmean(found) for label, found in means.items()}
