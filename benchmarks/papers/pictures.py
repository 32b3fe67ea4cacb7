"""A paper's systems as bars, load by load."""

from __future__ import annotations

from pathlib import Path

from benchmarks.papers.claims import Paper
from benchmarks.simulator.drawing import COLOURS, figure, finish

__all__ = ["draw"]

_PLAIN, _THEIRS, _OURS = COLOURS[0], COLOURS[1], COLOURS[3]


def draw(paper: Paper, path: Path) -> None:
    """Throughput above, latency below; what is ours in a colour of its own."""
    loads = list(dict.fromkeys(each.load for each in paper.measured))
    picture, axes = figure(2, len(loads), title=f"{paper.name}: {paper.setup}")
    for column, load in enumerate(loads):
        of = [each for each in paper.measured if each.load == load]
        names = [each.system.name for each in of]
        colours = [
            _OURS if each.system.is_ours else _PLAIN if each.system.parts.max_drafters == 0 else _THEIRS for each in of
        ]
        above, below = axes[column], axes[len(loads) + column]
        above.barh(names, [each.result.tokens_per_s for each in of], color=colours)
        above.set(title=load, xlabel="tokens/s")
        below.barh(names, [each.result.mean_latency_s for each in of], color=colours)
        below.set(xlabel="mean latency, seconds")
        for axis in (above, below):
            axis.invert_yaxis()
            axis.grid(axis="x", color="#e4e4e4", linewidth=0.8)
            axis.grid(visible=False, axis="y")
    finish(picture, path)
