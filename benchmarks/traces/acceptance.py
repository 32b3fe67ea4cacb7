"""A model of who would have guessed what, fitted to a trace: for as many requests as one likes.

Whether a drafter's first choice at a place is the target's is a hidden normal variable below a threshold, one threshold
for each domain and drafter. The variable has four parts, so that guesses come in runs as they do in text:

    u = sqrt(s) (sqrt(c) r + sqrt(1 - c) z_t)  +  sqrt(1 - s) (the same with parts of the drafter's own)

`r` is the request's (some are easy throughout), `z_t` wanders from place to place with memory `m`, and a share `s` of
all is common to all drafters (what is hard for one is hard for the others). s, c and m are the numbers at which pairs
of drafters, places far apart and neighbours agree as often as in the trace. A first choice that is wrong leaves the
target's token to a runner-up, or to none, as often as recorded; and confidences are those of a recorded place with the
same outcome, whole lists of them, so that a model's honesty is the recorded one. How acceptance depends on depth is no
parameter: it follows from the runs, as it does in a trace.

Prompts are recorded ones, for routing reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.traces.speech import Place, Said, beside_confidences, made_up
from benchmarks.traces.trace import NUM_LEVELS, Request, Trace, read_trace
from contracts.errors import InvalidArgument
from contracts.types import ROOT, DrafterId

__all__ = ["AcceptanceModel", "GeneratedSpeech", "fit_acceptance", "generate_requests", "learned"]

WIDTH = 4
NONE = WIDTH  # the rank of a token that is in no list
_ENOUGH = 8  # places of a request that say how it differs from others
_DECOY = (1 << 30) - (1 << 20)
_Confidences = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceModel:
    """See the module. `same_miss`: how often two drafters that are wrong are wrong with the same token."""

    domains: tuple[str, ...]
    drafters: tuple[DrafterId, ...]
    agreement: NDArray[np.float64]  # [domains, drafters]
    common: float
    of_request: float
    memory: float
    same_miss: float
    runner_up: NDArray[np.float64]  # [drafters, WIDTH]: rank 1, 2, 3 or none, given that the first choice is wrong
    confidences: dict[DrafterId, tuple[list[_Confidences], ...]]
    """For each rank that the target's token has, and for none."""
    beside: dict[DrafterId, list[_Confidences]]
    prompts: dict[str, tuple[tuple[int, ...], ...]]

    def __post_init__(self) -> None:
        parts = {"common": self.common, "of_request": self.of_request, "memory": self.memory}
        for name, part in parts.items():
            if not 0.0 <= part <= 1.0:  # NaN fails this too
                raise InvalidArgument(f"{name} of an acceptance model is {part}; it lies between 0 and 1")
        if self.agreement.shape != (len(self.domains), len(self.drafters)):
            raise InvalidArgument(
                f"agreement has shape {self.agreement.shape}; there are {len(self.domains)} domains and "
                f"{len(self.drafters)} drafters"
            )

    def with_drafters(self, voices: Mapping[DrafterId, DrafterId]) -> AcceptanceModel:
        """Other drafters, each of which is as good, and speaks in the same way, as one of the model's."""
        unknown = [voice for voice in voices.values() if voice not in self.drafters]
        if unknown:
            raise InvalidArgument(f"the model knows no drafter {unknown[0]}; it knows {', '.join(self.drafters)}")
        columns = [self.drafters.index(voice) for voice in voices.values()]
        return replace(
            self,
            drafters=tuple(voices),
            agreement=self.agreement[:, columns],
            runner_up=self.runner_up[columns],
            confidences={drafter: self.confidences[voice] for drafter, voice in voices.items()},
            beside={drafter: self.beside[voice] for drafter, voice in voices.items()},
        )

    def with_agreement(self, agreement: Sequence[Sequence[float]]) -> AcceptanceModel:
        """The same drafters, but right as often as said: a row for each domain. They know it: the odds of what they
        propose first rise as the odds of being right do, for a better model is a surer one."""
        better = replace(self, agreement=np.array(agreement, dtype=np.float64))
        before, after = _odds(self.agreement.mean(axis=0)), _odds(better.agreement.mean(axis=0))
        return replace(
            better,
            confidences={
                drafter: tuple([_surer(each, factor) for each in of] for of in self.confidences[drafter])
                for drafter, factor in zip(self.drafters, (after / before).tolist(), strict=True)
            },
        )

    def with_domains(self, domains: Sequence[str]) -> AcceptanceModel:
        """Only these, in this order."""
        unknown = [domain for domain in domains if domain not in self.domains]
        if unknown:
            raise InvalidArgument(f"the model knows no domain {unknown[0]}; it knows {', '.join(self.domains)}")
        rows = [self.domains.index(domain) for domain in domains]
        return replace(self, domains=tuple(domains), agreement=self.agreement[rows])


class GeneratedSpeech:
    """What the drafters of a model say at every place of requests made by `generate_requests`."""

    def __init__(
        self,
        model: AcceptanceModel,
        ranks: NDArray[np.int8],  # [drafters, places]
        draws: NDArray[np.int32],  # [drafters, places]: which of the recorded lists
        strays: NDArray[np.bool_],  # [drafters, places]: whether it is wrong in a way of its own
    ) -> None:
        self.model, self.drafters = model, model.drafters
        self._index = {drafter: index for index, drafter in enumerate(model.drafters)}
        self._ranks, self._draws, self._strays = ranks, draws, strays

    def said(self, request: Request, drafter: DrafterId, place: Place) -> Said:
        if place.num >= len(request.answer):
            return ()
        if place.beside:
            return made_up(self.model.beside[drafter], request, drafter, place)
        of, at = self._index[drafter], request.first_place + place.num
        rank = int(self._ranks[of, at])
        lists = self.model.confidences[drafter][rank]
        confidences = lists[int(self._draws[of, at]) % len(lists)]
        first_wrong = _DECOY + (WIDTH * (1 + of) if self._strays[of, at] else 0)
        tokens = [first_wrong + number for number in range(len(confidences))]
        if rank < len(tokens):
            tokens[rank] = request.answer[place.num]
        return tuple(zip(tokens, confidences, strict=True))


def generate_requests(
    model: AcceptanceModel,
    count: int,
    *,
    num_tokens: Sequence[int],
    num_prompt: int | None = None,
    domain_shares: Sequence[float] | None = None,
    temperature: float = 0.0,
    seed: int,
) -> tuple[list[Request], GeneratedSpeech]:
    """So many requests, their domains drawn by shares and lengths from `num_tokens`; prompts are recorded ones, cut or
    repeated to `num_prompt` tokens where that is given."""
    random = np.random.default_rng(seed)
    shares = np.array(domain_shares if domain_shares is not None else [1.0] * len(model.domains))
    of_domain = random.choice(len(model.domains), size=count, p=shares / shares.sum())
    lengths = random.choice(np.array(num_tokens), size=count)
    requests: list[Request] = []
    first_place = 0
    for number in range(count):
        domain, length = model.domains[int(of_domain[number])], int(lengths[number])
        prompts = model.prompts[domain]
        prompt = prompts[int(random.integers(len(prompts)))]
        if num_prompt is not None:
            prompt = (prompt * -(-num_prompt // len(prompt)))[:num_prompt]
        answer = tuple(range(first_place % 1000 + 1, first_place % 1000 + 1 + length))
        requests.append(
            Request(
                domain=domain,
                temperature=temperature,
                seed=seed + number,
                prompt=prompt,
                answer=answer,
                first_place=first_place,
            )
        )
        first_place += length
    is_hit = _hits(model, of_domain, lengths, random)
    ranks = np.zeros(is_hit.shape, np.int8)
    for of, chances in enumerate(model.runner_up):
        wrong = ~is_hit[of]
        ranks[of, wrong] = 1 + random.choice(WIDTH, size=int(wrong.sum()), p=chances)
    draws = random.integers(1 << 30, size=ranks.shape, dtype=np.int32)
    # Two are wrong alike if neither strays.
    strays = random.random(ranks.shape) > math.sqrt(model.same_miss)
    return requests, GeneratedSpeech(model, ranks, draws, strays)


def _hits(
    model: AcceptanceModel,
    of_domain: NDArray[np.integer],  # [requests]
    lengths: NDArray[np.integer],  # [requests]
    random: np.random.Generator,
) -> NDArray[np.bool_]:  # [drafters, places]
    num_requests, num_drafters, longest = len(lengths), len(model.drafters), int(lengths.max())
    shape = num_drafters + 1, num_requests  # the last is what all have in common
    own = random.standard_normal(shape)
    wandering = random.standard_normal(shape)
    thresholds = np.array([[_threshold(float(chance)) for chance in row] for row in model.agreement])  # by domain
    below = thresholds[of_domain].T  # [drafters, requests]
    hits = np.zeros((num_drafters, num_requests, longest), np.bool_)
    for place in range(longest):
        each = math.sqrt(model.of_request) * own + math.sqrt(1.0 - model.of_request) * wandering
        hidden = math.sqrt(model.common) * each[-1] + math.sqrt(1.0 - model.common) * each[:-1]
        hits[:, :, place] = hidden < below
        fresh = random.standard_normal(shape)
        wandering = model.memory * wandering + math.sqrt(1.0 - model.memory**2) * fresh
    is_there = np.arange(longest)[None, :] < lengths[:, None]
    return hits[:, is_there]


@lru_cache(maxsize=4)
def learned(path: Path, *, temperature: float = 0.0) -> AcceptanceModel:
    """Of a trace in a file, read and fitted once."""
    return fit_acceptance(read_trace(path), temperature=temperature)


def fit_acceptance(trace: Trace, *, temperature: float = 0.0) -> AcceptanceModel:
    """See the module; of the requests at this temperature."""
    requests = [request for request in trace.requests if request.temperature == temperature]
    if not requests:
        raise InvalidArgument(f"the trace has no request at temperature {temperature}")
    domains = tuple(dict.fromkeys(request.domain for request in requests))
    drafters = trace.drafters
    hits = [np.array([trace.matches(request, drafter) for drafter in drafters]) for request in requests]
    agreement = np.array(
        [
            np.concatenate([h for h, r in zip(hits, requests, strict=True) if r.domain == domain], axis=1).mean(axis=1)
            for domain in domains
        ]
    )
    below = [agreement[domains.index(request.domain)] for request in requests]
    near, of_request = _neighbours(hits, below), _within_requests(hits, _by_request(hits, requests))
    by_rank: dict[DrafterId, tuple[list[_Confidences], ...]] = {}
    runner_up = np.zeros((len(drafters), WIDTH))
    wrong: list[NDArray[np.int64]] = []
    for of, drafter in enumerate(drafters):
        lists: tuple[list[_Confidences], ...] = tuple([] for _ in range(NONE + 1))
        firsts: list[int] = []
        for request in requests:
            for token, first_level in zip(request.answer, _first_levels(trace, request, of), strict=True):
                tokens = [said for said, _ in first_level]
                rank = tokens.index(token) if token in tokens else NONE
                if tokens:
                    lists[rank].append(tuple(confidence for _, confidence in first_level))
                runner_up[of, max(rank, 1) - 1] += rank > 0
                firsts.append(tokens[0] if tokens and rank > 0 else -1 - of)
        for rank in range(NONE + 1):
            lists[rank].extend([] if lists[rank] else [(0.1,) * min(rank + 1, WIDTH)])
        by_rank[drafter] = lists
        wrong.append(np.array(firsts))
        runner_up[of] /= max(runner_up[of].sum(), 1.0)
    both = [(a >= 0) & (b >= 0) for n, a in enumerate(wrong) for b in wrong[:n]]
    alike = [a == b for n, a in enumerate(wrong) for b in wrong[:n]]
    num_both = sum(int(each.sum()) for each in both)
    return AcceptanceModel(
        domains=domains,
        drafters=drafters,
        agreement=agreement,
        common=_common(hits, below),
        of_request=of_request,
        memory=min(max((near - of_request) / max(1.0 - of_request, 1e-9), 0.0), 0.99),
        same_miss=sum(int((x & y).sum()) for x, y in zip(both, alike, strict=True)) / max(num_both, 1),
        runner_up=runner_up,
        confidences=by_rank,
        beside={drafter: beside_confidences(trace, drafter) for drafter in drafters},
        prompts={domain: tuple(r.prompt for r in requests if r.domain == domain) for domain in domains},
    )


def _first_levels(trace: Trace, request: Request, drafter: int) -> list[list[tuple[int, float]]]:
    """What a drafter says comes next, with confidences, at each place of an answer."""
    places = slice(request.first_place, request.first_place + len(request.answer))
    of = [each[:, drafter, places].T.tolist() for each in (trace.trees.tokens, trace.trees.parents, trace.trees.levels)]
    return [
        [
            (token, (level / (NUM_LEVELS - 1)) ** 2)
            for token, parent, level in zip(tokens, parents, levels, strict=True)
            if parent == ROOT + 2
        ][:WIDTH]
        for tokens, parents, levels in zip(*of, strict=True)
    ]


def _by_request(
    hits: Sequence[NDArray[np.bool_]], requests: Sequence[Request]
) -> list[NDArray[np.float64]]:  # of each request: [drafters]
    """The share of hits in its domain, every request of enough places counting alike."""
    of_domain: dict[str, list[NDArray[np.float64]]] = {}
    for h, request in zip(hits, requests, strict=True):
        of_domain.setdefault(request.domain, []).extend([h.mean(axis=1)] if h.shape[1] >= _ENOUGH else [])
    means = {domain: np.mean(each, axis=0) for domain, each in of_domain.items() if each}
    return [means.get(request.domain, h.mean(axis=1)) for h, request in zip(hits, requests, strict=True)]


def _neighbours(hits: Sequence[NDArray[np.bool_]], chances: Sequence[NDArray[np.float64]]) -> float:
    """The correlation of the hidden variable at one place and the next."""
    together, expected = 0.0, _Counts()
    for h, p in zip(hits, chances, strict=True):
        together += float((h[:, :-1] & h[:, 1:]).sum())
        for chance in p.tolist():
            expected.add(chance, chance, h.shape[1] - 1)
    return expected.correlation(together)


def _within_requests(hits: Sequence[NDArray[np.bool_]], chances: Sequence[NDArray[np.float64]]) -> float:
    """The correlation of the hidden variable at any two places of a request; every request counts alike."""
    together, expected = 0.0, _Counts()
    for h, p in zip(hits, chances, strict=True):
        num = h.shape[1]
        if num < _ENOUGH:
            continue
        held = h.sum(axis=1).astype(np.float64)
        near = (h[:, :-1] & h[:, 1:]).sum(axis=1)
        together += float(((held * (held - 1.0) / 2.0 - near) / (num * (num - 1.0) / 2.0 - (num - 1.0))).sum())
        for chance in p.tolist():
            expected.add(chance, chance, 1.0)
    return expected.correlation(together)


def _common(hits: Sequence[NDArray[np.bool_]], chances: Sequence[NDArray[np.float64]]) -> float:
    """The correlation of the hidden variables of two drafters at one place."""
    together, expected = 0.0, _Counts()
    for h, p in zip(hits, chances, strict=True):
        for one in range(len(p)):
            for other in range(one):
                together += float((h[one] & h[other]).sum())
                expected.add(float(p[one]), float(p[other]), h.shape[1])
    return expected.correlation(together)


class _Counts:
    """Pairs of guesses by the chances of the two, and the correlation at which so many are both right."""

    def __init__(self) -> None:
        self._of: dict[tuple[float, float], float] = {}

    def add(self, one: float, other: float, count: float) -> None:
        self._of[one, other] = self._of.get((one, other), 0.0) + count

    def correlation(self, together: float) -> float:
        low, high = 0.0, 0.999
        for _ in range(20):
            middle = (low + high) / 2.0
            expected = sum(count * _both_below(one, other, middle) for (one, other), count in self._of.items())
            low, high = (middle, high) if expected < together else (low, middle)
        return (low + high) / 2.0


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)


def _both_below(one: float, other: float, correlation: float) -> float:
    """The chance that two normal variables of this correlation are below the quantiles of these chances."""
    first, second = _threshold(one), _threshold(other)
    low = -8.0
    x = (first - low) / 2.0 * _NODES + (first + low) / 2.0
    density = np.exp(-(x**2) / 2.0) / math.sqrt(2.0 * math.pi)
    root = math.sqrt(max(1.0 - correlation**2, 1e-12))
    inner = [0.5 * (1.0 + math.erf((second - correlation * each) / root / math.sqrt(2.0))) for each in x.tolist()]
    return float((first - low) / 2.0 * (_WEIGHTS * density * np.array(inner)).sum())


def _odds(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    held = np.clip(chances, 1e-6, 1.0 - 1e-6)
    odds: NDArray[np.float64] = held / (1.0 - held)
    return odds


def _surer(confidences: _Confidences, factor: float) -> _Confidences:
    """The first one's odds times a factor; the others share what is left as before."""
    first = min(max(confidences[0], 1e-6), 1.0 - 1e-6)
    raised = factor * first / (1.0 - first)
    surer = raised / (1.0 + raised)
    return (surer, *(each * (1.0 - surer) / (1.0 - first) for each in confidences[1:]))


def _threshold(chance: float) -> float:
    return NormalDist().inv_cdf(min(max(chance, 1e-6), 1.0 - 1e-6))
