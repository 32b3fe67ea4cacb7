"""PEARL (arXiv 2408.11850): up to 1.5 times vanilla speculation at one request.

A100s; a 7B drafter beside a 70B target. How often the drafter is right is not published by itself. It is set so that
vanilla speculation comes to the paper's own 1.89 and 2.70 times plain decoding, by the closed form for guesses that are
right independently of each other, (1 - a^(n+1)) / (1 - a) tokens for n draft steps and one of the target.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.papers.claims import Claim, Measured, Paper
from benchmarks.papers.systems import Bench, System, chain, plain
from benchmarks.simulator.hardware import MODELS, analytic_cost, hardware
from benchmarks.simulator.machines import DrafterMachine, VerifierMachine
from benchmarks.traces.acceptance import AcceptanceModel, generate_requests
from router.modes import mode_parts

__all__ = ["agreement_for", "pearl"]

_LENGTH = 5  # the paper's best for this pair
_LINK_S = 20e-6  # cards of one machine
_TASKS = (
    ("MT-Bench", "llama-2-7b", "llama-2-70b", 1.89, 2.64),
    ("multilingual", "llama-3.1-8b", "llama-3.1-70b", 2.70, 3.95),
)


def pearl(fitted: AcceptanceModel, *, num_requests: int) -> Paper:
    measured: list[Measured] = []
    claims: list[Claim] = []
    for task, small, large, vanilla_times, pearl_times in _TASKS:
        verifier_cost = analytic_cost(MODELS[large], hardware("2xa100"))
        drafter_cost = analytic_cost(MODELS[small], hardware("a100"))
        ratio = drafter_cost.cost_s(1, 128) / verifier_cost.cost_s(1, 128)
        voice = fitted.drafters[0]
        model = replace(fitted.with_drafters({voice: voice}), of_request=0.0, memory=0.0)
        right = agreement_for(vanilla_times, ratio, _LENGTH)
        model = model.with_agreement([[right]] * len(model.domains))
        requests, speech = generate_requests(model, 2 * num_requests, num_tokens=(128,), num_prompt=64, seed=11)
        bench = Bench(
            speech=speech,
            requests=requests,
            num_warm=num_requests,
            verifier=VerifierMachine(cost=verifier_cost, link_s=_LINK_S),
            drafters=[DrafterMachine(drafter=voice, cost=drafter_cost, link_s=_LINK_S)],
        )
        systems = [
            plain(),
            chain("vanilla speculation", _LENGTH),
            chain("PEARL", _LENGTH, runs_ahead=True),
            *(
                System(name=mode, parts=mode_parts(mode), is_ours=True)
                for mode in ("fleet", "fleet-run_ahead", "fleet-budget")
            ),
        ]
        results = {system.name: bench.closed(system, 1) for system in systems}
        measured += [Measured(system=s, load=f"{task}, a = {right:.2f}", result=results[s.name]) for s in systems]
        rates = {name: result.tokens_per_s for name, result in results.items()}
        claims += [
            Claim(
                what=f"{task}: vanilla speculation over plain",
                theirs=vanilla_times,
                rebuilt=rates["vanilla speculation"] / rates["plain"],
                ours=rates["fleet"] / rates["plain"],
            ),
            Claim(
                what=f"{task}: over vanilla speculation",
                theirs=pearl_times / vanilla_times,
                rebuilt=rates["PEARL"] / rates["vanilla speculation"],
                ours=rates["fleet"] / rates["vanilla speculation"],
            ),
        ]
    return Paper(
        name="PEARL",
        setup="one request; 70B on 2 A100, its drafter on a third; 128 tokens; the fleet has that one drafter too",
        measured=measured,
        claims=claims,
        remarks=[
            "Acceptance is chosen so that vanilla speculation gives the paper's figure; all systems have the same.",
            "PEARL's configuration waits or goes by the service's prices, not by its own two states.",
        ],
    )


def agreement_for(times_plain: float, ratio: float, length: int) -> float:
    """How often guesses have to be right for chains of this length to bring so much; `ratio`: draft step over round."""
    low, high = 0.0, 0.999
    for _ in range(50):
        middle = (low + high) / 2.0
        tokens = (1.0 - middle ** (length + 1)) / (1.0 - middle)
        low, high = (middle, high) if tokens / (1.0 + length * ratio) < times_plain else (low, middle)
    return (low + high) / 2.0
