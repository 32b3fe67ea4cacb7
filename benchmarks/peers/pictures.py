"""A run as pictures: speed-ups, load, acceptance, and a moment of the fleet at work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.arrivals import Arrivals
from benchmarks.peers.figures import PLAIN, Ratio, Row
from benchmarks.peers.peer import is_ours
from benchmarks.peers.report import Report
from benchmarks.simulator.drawing import COLOURS, figure, finish
from router.timeline import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_THEIRS = {
    "hf": ("#4b5563", "#8d99ae", "#c3cad6"),
    "llamacpp": ("#7f5539", "#b08968"),
    "openvino": ("#6d597a", "#b1a7c6"),
    "vllm": ("#2f6690", "#6c9bbf", "#a9c7dd"),
    "sglang": ("#9a5b5b", "#c08a8a", "#dfbcbc"),
}
"""By whose they are, which is the first part of their names."""
_OURS = {"off": COLOURS[2], "vanilla": COLOURS[1], "pearl": COLOURS[4], "fleet": COLOURS[3]}
_LESS = (COLOURS[7], COLOURS[5], COLOURS[6])
"""Modes that lack parts."""
_BESIDE = 0.03  # from one peer to the next, in numbers of requests at once
_SHOWN_S = 0.6


def draw(report: Report, folder: Path) -> None:
    """What was not measured is not drawn."""
    colours = _colours(list(dict.fromkeys(row.peer for row in report.rows)))
    if speed_ups := [each for each in report.ratios if each.over == PLAIN]:
        _draw_speed_ups(speed_ups, colours, folder / "speed-up.png")
    if len({row.cell.together for row in report.rows}) > 1:
        _draw_together(report.rows, colours, folder / "at-once.png")
    if any(any(row.accepted_at) for row in report.rows):
        _draw_acceptance(report.rows, colours, folder / "acceptance.png")
    if report.arrivals:
        _draw_latency(report.arrivals, colours, folder / "latency.png")
    if report.spans:
        _draw_timeline(report.spans, folder / "timeline.png")


def _colours(peers: Sequence[str]) -> dict[str, str]:
    theirs, less = {whose: cycle(colours) for whose, colours in _THEIRS.items()}, cycle(_LESS)
    return {peer: _OURS.get(peer) or next(theirs.get(peer.partition("-")[0], less)) for peer in peers}


def _panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    """So many, three to a row."""
    columns = min(count, 3)
    picture, axes = figure(-(-count // columns), columns, title=title)
    for spare in axes[count:]:
        spare.remove()
    return picture, axes[:count]


def _line(peer: str, colours: dict[str, str]) -> dict[str, Any]:
    style = "-" if is_ours(peer) else "--"
    return {"color": colours[peer], "linestyle": style, "marker": "o", "markersize": 4}


def _explain(picture: Figure, axes: Sequence[Axes]) -> None:
    """Beside the panels: within them so many peers would hide what is drawn."""
    lines = {line.get_label(): line for axis in axes for line in axis.get_lines()}
    picture.legend(
        lines.values(), map(str, lines), loc="outside right upper", frameon=False, fontsize=8, handlelength=3.5
    )


def _draw_speed_ups(ratios: Sequence[Ratio], colours: dict[str, str], path: Path) -> None:
    cells = list(dict.fromkeys(each.cell for each in ratios))
    picture, axes = _panels(len(cells), "Tokens per second, times Hugging Face generate")
    for cell, axis in zip(cells, axes, strict=True):
        of = [each for each in ratios if each.cell == cell]
        medians = [each.estimate.median for each in of]
        below = [each.estimate.median - each.estimate.low for each in of]
        above = [each.estimate.high - each.estimate.median for each in of]
        names = [each.peer for each in of]
        axis.barh(names, medians, color=[colours[name] for name in names])
        axis.errorbar(medians, names, xerr=[below, above], fmt="none", ecolor="#333333", elinewidth=1.0, capsize=2.5)
        for place, each in enumerate(of):
            axis.text(each.estimate.high, place, f"  {each.estimate.median:.2f}", va="center", fontsize=9)
        axis.margins(x=0.12)
        axis.axvline(1.0, color="#333333", linewidth=0.8, linestyle=":")
        axis.set(title=f"{cell.workload}, temperature {cell.temperature:g}")
        axis.grid(visible=False, axis="y")
        axis.grid(axis="x", color="#e4e4e4", linewidth=0.8)
        axis.invert_yaxis()
    finish(picture, path)


def _draw_together(rows: Sequence[Row], colours: dict[str, str], path: Path) -> None:
    kinds = list(dict.fromkeys((row.cell.workload, row.cell.temperature) for row in rows))
    picture, axes = _panels(len(kinds), "Tokens per second, by requests at once")
    for (workload, temperature), axis in zip(kinds, axes, strict=True):
        of = [row for row in rows if (row.cell.workload, row.cell.temperature) == (workload, temperature)]
        counts = sorted({row.cell.together for row in of})
        peers = list(dict.fromkeys(row.peer for row in of))
        for place, peer in enumerate(peers):
            points = sorted(
                ((row.cell.together, row.figures["tokens_per_s"]) for row in of if row.peer == peer),
                key=lambda point: point[0],
            )
            beside = _BESIDE * (place - (len(peers) - 1) / 2)  # so that nobody's bar hides another's
            at = [counts.index(together) + beside for together, _ in points]
            medians = [estimate.median for _, estimate in points]
            off_by = [
                [estimate.median - estimate.low for _, estimate in points],
                [estimate.high - estimate.median for _, estimate in points],
            ]
            axis.plot(at, medians, label=peer, **_line(peer, colours))
            axis.errorbar(at, medians, yerr=off_by, fmt="none", ecolor=colours[peer], elinewidth=0.8)
        axis.set(title=f"{workload}, temperature {temperature:g}", xlabel="requests at once", ylabel="tokens/s")
        axis.set_xticks(range(len(counts)), [str(count) for count in counts])
        axis.set_ylim(bottom=0)
    _explain(picture, axes)
    finish(picture, path)


def _draw_acceptance(rows: Sequence[Row], colours: dict[str, str], path: Path) -> None:
    alone = [row for row in rows if row.cell.together == min(row.cell.together for row in rows)]
    cells = list(dict.fromkeys(row.cell for row in alone))
    picture, axes = _panels(len(cells), "Rounds that accept a draft token at a depth")
    for cell, axis in zip(cells, axes, strict=True):
        for row in alone:
            if row.cell == cell and any(row.accepted_at):
                depths = range(1, len(row.accepted_at) + 1)
                axis.plot(depths, row.accepted_at, label=row.peer, **_line(row.peer, colours))
        axis.set(title=f"{cell.workload}, temperature {cell.temperature:g}", xlabel="depth", ylabel="share of rounds")
        axis.set_ylim(0, 1)
    _explain(picture, axes)
    finish(picture, path)


def _draw_latency(arrivals: Sequence[Arrivals], colours: dict[str, str], path: Path) -> None:
    picture, axes = figure(1, 2, title="Latency of requests that arrive at random")
    loads, modes = (list(dict.fromkeys(of)) for of in zip(*((a.load, a.mode) for a in arrivals), strict=True))
    width = 0.8 / len(modes)
    for axis, (title, of) in zip(axes, (("whole answer", "latency_s"), ("first token", "first_token_s")), strict=True):
        for number, mode in enumerate(modes):
            by_load = {each.load: getattr(each, of) for each in arrivals if each.mode == mode}
            at = [loads.index(load) + (number - (len(modes) - 1) / 2) * width for load in by_load]
            medians = [percentiles["p50"] for percentiles in by_load.values()]
            axis.bar(at, medians, width=0.9 * width, color=colours.get(mode, COLOURS[0]), label=mode)
            for name, marker in (("p90", "_"), ("p99", "^")):
                worst = [percentiles[name] for percentiles in by_load.values()]
                axis.plot(at, worst, linestyle="none", marker=marker, color="#333333", markersize=5)
        axis.set(title=f"{title}: bar median, line p90, triangle p99", ylabel="seconds")
        axis.set_xticks(range(len(loads)), [_load_name(load, arrivals) for load in loads])
    axes[0].legend(frameon=False, fontsize=8)
    finish(picture, path)


def _load_name(load: str, arrivals: Sequence[Arrivals]) -> str:
    asked = next(each.requests_per_s for each in arrivals if each.load == load)
    return f"{load}\n{asked:.1f} requests/s"


def _draw_timeline(spans: Sequence[Span], path: Path) -> None:
    """The end of what was recorded, where nothing warms up any more."""
    until_s = max(span.ended_s for span in spans)
    from_s = max(until_s - _SHOWN_S, min(span.began_s for span in spans))
    shown = [span for span in spans if span.ended_s > from_s]
    drafting = sorted({span.process for span in shown} - {"verifier", "router"})
    processes = ["verifier", *drafting, "router"]
    picture, (axis,) = figure(1, 1, title="Who works when: fleet, one request")
    picture.set_size_inches(11.0, 0.45 * len(processes) + 1.6)
    for height, process in enumerate(processes):
        of = [span for span in shown if span.process == process]
        colour = {"verifier": COLOURS[2], "router": COLOURS[5]}.get(process, COLOURS[3])
        axis.broken_barh(
            [(1e3 * (span.began_s - from_s), 1e3 * (span.ended_s - span.began_s)) for span in of],
            (height - 0.35, 0.7),
            color=colour,
        )
    for span in (span for span in shown if span.process == "verifier"):
        middle_ms = 1e3 * ((span.began_s + span.ended_s) / 2 - from_s)
        axis.text(middle_ms, 0, str(span.num_rows), ha="center", va="center", fontsize=7, color="white", clip_on=True)
    axis.set_yticks(range(len(processes)), processes)
    axis.set(xlim=(0, 1e3 * (until_s - from_s)), xlabel="milliseconds; numbers are rows of the pass")
    axis.grid(visible=False, axis="y")
    axis.invert_yaxis()
    finish(picture, path)
