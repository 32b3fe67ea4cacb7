"""Small means to draw with: shapes as SVG text, in the colours of a light and a dark page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["arrow", "box", "chip", "line", "sheet", "text", "width_of"]

Point = tuple[float, float]

_LETTER = 0.56  # of the font's size: about what a letter of a plain font takes
_FONT = "font-family: ui-sans-serif, system-ui, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', sans-serif"
_LIGHT = {
    "paper": "#ffffff", "edge": "#dfe4ec", "ink": "#1c2633", "soft": "#66727f", "line": "#9aa6b5",
    "solid": "#2b3a4d", "on-solid": "#ffffff", "node": "#f4f6fa", "band": "#e8effc", "band-edge": "#7d9fe0",
    "good": "#16794c", "good-fill": "#dcf3e6", "own": "#b65c00", "own-fill": "#fdeed9",
    "one": "#2f6fe4", "two": "#9146d8", "three": "#0f8a8a",
}  # fmt: skip
_DARK = {
    "paper": "#12171f", "edge": "#2b3543", "ink": "#e7ecf4", "soft": "#9aa7b8", "line": "#66748a",
    "solid": "#dfe7f2", "on-solid": "#131922", "node": "#1d2530", "band": "#172540", "band-edge": "#4f77c4",
    "good": "#4cc38a", "good-fill": "#12372a", "own": "#f5a65b", "own-fill": "#3d2a13",
    "one": "#6ea0ff", "two": "#c08bff", "three": "#4fc7c7",
}  # fmt: skip


def sheet(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """A whole picture, with a paper of its own, so that it reads on any page."""
    marks = "".join(
        f'<marker id="tip-{name}" viewBox="0 0 10 10" refX="8.5" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto-start-reverse"><path d="M0.5 0.8 9.5 5 0.5 9.2Z" fill="var(--{name})"/></marker>'
        for name in ("line", "good", "own", "one", "two", "three", "ink")
    )
    style = (
        f":root {{{_variables(_LIGHT)}}} @media (prefers-color-scheme: dark) {{:root {{{_variables(_DARK)}}}}} "
        f"text {{{_FONT}; fill: var(--ink)}}"
    )
    paper = f'<rect x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1:g}" rx="14" {_paint("paper", "edge")}/>'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(title)}">\n<title>{escape(title)}</title>\n'
        f"<style>{style}</style>\n<defs>{marks}</defs>\n{paper}\n{body}\n</svg>\n"
    )


def text(
    at: Point, said: str, *, size: float = 14, colour: str = "ink", anchor: str = "middle", weight: int = 400
) -> str:
    """One line; `at` is on its baseline."""
    heavy = f' font-weight="{weight}"' if weight != 400 else ""
    return (
        f'<text x="{at[0]:g}" y="{at[1]:g}" font-size="{size:g}" text-anchor="{anchor}"{heavy} '
        f'style="fill: var(--{colour})">{escape(said)}</text>'
    )


def width_of(said: str, size: float = 15) -> float:
    """About how wide a line is."""
    return _LETTER * size * len(said)


def box(
    corner: Point, size: Point, *, fill: str, edge: str, radius: float = 12, dashes: str = "", thick: float = 1.5
) -> str:
    """A rectangle with round corners."""
    return (
        f'<rect x="{corner[0]:g}" y="{corner[1]:g}" width="{size[0]:g}" height="{size[1]:g}" rx="{radius:g}" '
        f"{_paint(fill, edge, thick, dashes)}/>"
    )


def chip(
    at: Point, said: str, *, fill: str = "node", edge: str = "line", ink: str = "ink", dashes: str = "",
    thick: float = 1.5, dots: Sequence[str] = (), faint: bool = False,
) -> str:  # fmt: skip
    """A token around a point; dots say who guessed it, and a faint one is gone."""
    width = max(width_of(said) + 24, 44)
    x, y = at
    parts = [box((x - width / 2, y - 15), (width, 30), fill=fill, edge=edge, radius=15, dashes=dashes, thick=thick)]
    parts.append(text((x, y + 5), said, size=15, colour=ink))
    for index, colour in enumerate(dots):
        parts.append(
            f'<circle cx="{x - width / 2 + 9 + 10 * index:g}" cy="{y - 15:g}" r="4.5" {_paint(colour, "paper", 1.5)}/>'
        )
    return _group(parts, faint=faint)


def line(
    points: Sequence[Point], *, colour: str = "line", thick: float = 1.5, dashes: str = "", faint: bool = False
) -> str:
    """From a parent to a child: straight down at both ends."""
    (x, y), (to_x, to_y) = points
    middle = (y + to_y) / 2
    path = f"M{x:g} {y:g} C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}"
    return _group([f'<path d="{path}" {_paint("none", colour, thick, dashes)}/>'], faint=faint)


def arrow(path: str, *, colour: str = "line", thick: float = 1.8, dashes: str = "", both: bool = False) -> str:
    """Along a path in SVG's own words, with a tip."""
    start = f' marker-start="url(#tip-{colour})"' if both else ""
    return f'<path d="{path}" {_paint("none", colour, thick, dashes)} marker-end="url(#tip-{colour})"{start}/>'


def _group(parts: Sequence[str], *, faint: bool) -> str:
    return f'<g opacity="0.42">{"".join(parts)}</g>' if faint else "".join(parts)


def _paint(fill: str, edge: str, thick: float = 1.5, dashes: str = "") -> str:
    inside = "none" if fill == "none" else f"var(--{fill})"
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'style="fill: {inside}; stroke: var(--{edge})" stroke-width="{thick:g}"{dashed}'


def _variables(colours: dict[str, str]) -> str:
    return "; ".join(f"--{name}: {colour}" for name, colour in colours.items())
