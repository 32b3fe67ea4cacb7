"""A paper's figures beside those of the simulator, as a table that says which were reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.papers.systems import System
from benchmarks.simulator.fleet import Simulated

__all__ = ["Claim", "Measured", "Paper", "claims_table", "systems_table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One system under one load."""

    system: System
    load: str
    result: Simulated


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """`theirs` as the paper says it of its own system; `rebuilt` is what its configuration here reaches, `ours` what
    the fleet does. All are ratios, better when larger."""

    what: str
    theirs: float
    rebuilt: float
    ours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """`remarks`: where the setup here differs from the paper's, and why a figure may be missed."""

    name: str
    setup: str
    measured: Sequence[Measured]
    claims: Sequence[Claim]
    remarks: Sequence[str]


def claims_table(paper: Paper) -> str:
    lines = ["| figure | paper | its configuration here | fleet | reached by the fleet |", "|---|---:|---:|---:|---|"]
    for claim in paper.claims:
        reached = "yes" if claim.ours >= claim.theirs else "no"
        lines.append(f"| {claim.what} | {claim.theirs:.2f} | {claim.rebuilt:.2f} | {claim.ours:.2f} | {reached} |")
    return "\n".join(lines)


def systems_table(paper: Paper) -> str:
    lines = [
        "| load | system | tokens/s | when full | latency s | p95 s | tokens a part | rows a round | verifier busy |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in paper.measured:
        of = each.result
        lines.append(
            f"| {each.load} | {each.system.name} | {of.tokens_per_s:.1f} | "
            f"{f'{of.full_tokens_per_s:.1f}' if of.full_tokens_per_s else ''} | {of.mean_latency_s:.2f} | "
            f"{of.latency_quantile_s(0.95):.2f} | {of.num_tokens / of.num_parts:.2f} | "
            f"{of.num_rows / of.num_rounds:.0f} | {1.0 - of.idle_share:.0%} |"
        )
    return "\n".join(lines)
