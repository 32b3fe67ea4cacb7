"""How the simulator's pictures look. Drawn without a screen; the library is needed only where something is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import InvalidArgument

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "figure", "finish"]

COLOURS = ("#8d99ae", "#e9a23b", "#3d7ea6", "#2a9d5c", "#8e5ea2", "#c8553d", "#5c4d3c", "#1b998b")
_PANEL = 5.4, 3.9  # inches


def figure(num_rows: int, num_columns: int, *, title: str) -> tuple[Figure, list[Axes]]:
    """Panels, in the order in which one reads."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidArgument(
            "pictures need matplotlib, which is not installed here; install it, or leave out --out"
        ) from error
    picture = Figure(figsize=(_PANEL[0] * num_columns, _PANEL[1] * num_rows + 0.5), layout="constrained")
    picture.suptitle(title, fontsize=13, fontweight="bold")
    grid = picture.subplots(num_rows, num_columns, squeeze=False)
    axes: list[Axes] = [axis for row in grid for axis in row]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axis.set_axisbelow(True)
    return picture, axes


def finish(picture: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=130, facecolor="white")
