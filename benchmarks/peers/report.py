"""A run as JSON, with everything that was measured, and as Markdown, with what a reader wants of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.peers.arrivals import Arrivals
from benchmarks.peers.estimate import Estimate
from benchmarks.peers.figures import FIGURES, OVERS, Ratio, Row, Same
from benchmarks.peers.turns import Turn
from router.timeline import Span

__all__ = ["Report", "content", "markdown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    machine: str
    conditions: Mapping[str, object]
    turns: Sequence[Turn]
    rows: Sequence[Row]
    ratios: Sequence[Ratio]
    same: Sequence[Same]
    arrivals: Sequence[Arrivals]
    spans: Sequence[Span]
    """A moment of the fleet at work."""


def content(report: Report) -> dict[str, Any]:
    """What goes into the file. Turns are told by their figures: their tokens would fill it."""
    return {
        "machine": report.machine,
        "conditions": dict(report.conditions),
        "rows": [asdict(row) for row in report.rows],
        "ratios": [asdict(each) for each in report.ratios],
        "same": [asdict(each) for each in report.same],
        "arrivals": [asdict(each) for each in report.arrivals],
        "turns": [
            {
                "cell": asdict(turn.cell),
                "peer": turn.peer,
                **{name: figure(turn) for name, figure in FIGURES.items()},
                "router_s": turn.router_s,
                "num_tokens": turn.num_tokens,
                "elapsed_s": turn.elapsed_s,
            }
            for turn in report.turns
        ],
        "spans": [asdict(span) for span in report.spans],
    }


def markdown(report: Report) -> str:
    parts = [
        report.machine,
        "; ".join(f"{name} {_told(value)}" for name, value in report.conditions.items()),
        "Medians over alternations; in brackets where 95 % of the medians of resampled alternations lie.",
        *_cells(report),
        _ratio_table(report.ratios),
        _acceptance_table(report.rows),
        _same_table(report.same),
    ]
    if report.arrivals:
        parts.append(_arrival_table(report.arrivals))
    return "\n\n".join(part for part in parts if part) + "\n"


def _told(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cells(report: Report) -> Iterator[str]:
    head = (
        "peer",
        "tokens/s",
        "first token ms",
        "ms a token",
        "tokens a round",
        "CPU ms a token",
        "peak MiB",
        "router ms a round",
    )
    for cell in dict.fromkeys(row.cell for row in report.rows):
        lines = [
            (
                row.peer,
                _shown(row.figures["tokens_per_s"], 1, 1),
                _shown(row.figures["first_token_s"], 1e3, 0),
                _shown(row.figures["token_s"], 1e3, 1),
                _shown(row.figures["tokens_per_round"], 1, 2),
                _shown(row.figures["cpu_s_per_token"], 1e3, 0),
                f"{row.figures['peak_bytes'].median / 2**20:.0f}",
                "" if row.router_s is None else _shown(row.router_s, 1e3, 2),
            )
            for row in report.rows
            if row.cell == cell
        ]
        count = max(row.num_alternations for row in report.rows if row.cell == cell)
        yield f"### {cell.name}: {count} alternations\n\n{_table(head, lines)}"


def _ratio_table(ratios: Sequence[Ratio]) -> str:
    overs = [over for over in OVERS if any(each.over == over for each in ratios)]
    of: dict[tuple[str, str], dict[str, str]] = {}
    for each in ratios:
        of.setdefault((each.cell.name, each.peer), {})[each.over] = _shown(each.estimate, 1, 2)
    lines = [(*key, *(by_over.get(over, "") for over in overs)) for key, by_over in of.items()]
    return "### Tokens per second, times another\n\n" + _table(
        ("asked", "peer", *(f"times {over}" for over in overs)), lines
    )


def _acceptance_table(rows: Sequence[Row]) -> str:
    guessing = [row for row in rows if any(row.accepted_at)]
    if not guessing:
        return ""
    head = ("asked", "peer", *(str(depth) for depth in range(1, len(guessing[0].accepted_at) + 1)))
    lines = [(row.cell.name, row.peer, *(f"{share:.2f}" for share in row.accepted_at)) for row in guessing]
    return "### Share of rounds that accept a draft token at this depth\n\n" + _table(head, lines)


def _same_table(same: Sequence[Same]) -> str:
    lines = [
        (each.workload, f"{each.temperature:g}", each.peer, each.reference, f"{each.num_same} of {each.num_answers}")
        for each in same
        if each.peer != each.reference
    ]
    return "### Answers with the same tokens\n\n" + _table(("workload", "temperature", "peer", "as", "answers"), lines)


def _arrival_table(arrivals: Sequence[Arrivals]) -> str:
    head = (
        "load",
        "mode",
        "requests",
        "a second",
        "tokens/s",
        "latency s p50 / p90 / p99",
        "first token s",
        "ms a token",
    )
    lines = [
        (
            each.load,
            each.mode,
            str(each.num_requests),
            f"{each.requests_per_s:.2f}",
            f"{each.tokens_per_s:.1f}",
            _percentiles(each.latency_s, "{:.2f}".format),
            _percentiles(each.first_token_s, "{:.2f}".format),
            _percentiles(each.token_s, lambda seconds: f"{1e3 * seconds:.0f}"),
        )
        for each in arrivals
    ]
    return "### Requests that arrive at random\n\n" + _table(head, lines)


def _percentiles(of: Mapping[str, float], shown: Callable[[float], str]) -> str:
    return " / ".join(shown(seconds) for seconds in of.values())


def _shown(estimate: Estimate, times: float, digits: int) -> str:
    median, low, high = (f"{times * value:.{digits}f}" for value in (estimate.median, estimate.low, estimate.high))
    return f"{median} ({low} to {high})"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(line)} |" for line in lines)]
    )
