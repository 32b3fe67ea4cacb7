"""A token tree through three rounds: what is checked, what a verdict keeps, and what a miss finds ready."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from docs.make.pictures.drawing import Point, arrow, box, chip, line, sheet, text, width_of

__all__ = ["picture"]

_WIDTH, _HEIGHT = 1200.0, 800.0
_TOP, _STEP = 152.0, 82.0
_MIDDLES = (212.0, 602.0, 995.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A token of a tree: how far from its column's middle, how deep, below whom, and what became of it."""

    said: str
    dx: float
    depth: int
    fate: str
    """committed, accepted, own (the target's next token), kept or dropped."""
    below: str = ""
    chance: str = ""
    by: tuple[str, ...] = ()
    ahead: bool = False
    """Drafted below what is being checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A column."""

    title: str
    nodes: Mapping[str, Node]
    band: Sequence[Point]
    """Corners around the frontier: from the column's middle, and in depths."""
    caption: Sequence[str]


_A, _B = ("one",), ("two",)
_BOTH = ("one", "two")

ROUNDS = (
    Round(
        title="Round 1: a hit",
        nodes={
            "The": Node(said="The", dx=0, depth=0, fate="committed"),
            "sea": Node(said="sea", dx=-95, depth=1, fate="dropped", below="The", chance=".3", by=_B),
            "old": Node(said="old", dx=50, depth=1, fate="accepted", below="The", chance=".6", by=_A),
            "was": Node(said="was", dx=-95, depth=2, fate="dropped", below="sea", chance=".5", by=_B),
            "house": Node(said="lighthouse", dx=50, depth=2, fate="accepted", below="old", chance=".7", by=_BOTH),
            "door": Node(said="door", dx=-60, depth=3, fate="dropped", below="house", chance=".2", by=_B, ahead=True),
            "keeper": Node(said="keeper", dx=60, depth=3, fate="own", below="house", chance=".6", by=_A, ahead=True),
            "lit": Node(said="lit", dx=0, depth=4, fate="kept", below="keeper", chance=".5", by=_A, ahead=True),
            "opened": Node(said="opened", dx=112, depth=4, fate="kept", below="keeper", chance=".4", by=_B, ahead=True),
        },
        band=((-150, 0.55), (130, 0.55), (130, 2.42), (-150, 2.42)),
        caption=(
            "Drafters run ahead while the frontier is checked.",
            "The target accepts two tokens and adds its own,",
            "which is drafted already: what is below it lives on.",
        ),
    ),
    Round(
        title="Round 2: a miss that was prepared for",
        nodes={
            "keeper": Node(said="keeper", dx=0, depth=0, fate="committed"),
            "lit": Node(said="lit", dx=-95, depth=1, fate="dropped", below="keeper", chance=".5", by=_A),
            "opened": Node(said="opened", dx=60, depth=1, fate="accepted", below="keeper", chance=".4", by=_B),
            "a": Node(said="the", dx=-95, depth=2, fate="dropped", below="lit", chance=".8", by=_A),
            "the": Node(said="the", dx=60, depth=2, fate="own", below="opened", chance=".7", by=_B, ahead=True),
            "gate": Node(said="gate", dx=0, depth=3, fate="kept", below="the", chance=".3", by=_A, ahead=True),
            "door": Node(said="door", dx=108, depth=3, fate="kept", below="the", chance=".6", by=_B, ahead=True),
        },
        band=((-150, 0.55), (130, 0.55), (130, 1.42), (-28, 1.42), (-28, 2.42), (-150, 2.42)),
        caption=(
            "The likeliest token is wrong, its sibling is right.",
            "A drafter had run ahead below the sibling too,",
            "so that the miss finds a subtree to go on with.",
        ),
    ),
    Round(
        title="Round 3: a miss that nobody saw",
        nodes={
            "the": Node(said="the", dx=0, depth=0, fate="committed"),
            "gate": Node(said="gate", dx=-95, depth=1, fate="dropped", below="the", chance=".3", by=_A),
            "door": Node(said="door", dx=50, depth=1, fate="accepted", below="the", chance=".6", by=_B),
            "and": Node(said="and", dx=50, depth=2, fate="accepted", below="door", chance=".5", by=_BOTH),
            "walked": Node(said="walked", dx=-20, depth=3, fate="dropped", below="and", chance=".4", by=_A, ahead=True),
            "looked": Node(said="looked", dx=100, depth=3, fate="own", below="and"),
        },
        band=((-150, 0.55), (130, 0.55), (130, 2.42), (-28, 2.42), (-28, 1.42), (-150, 1.42)),
        caption=(
            "Two accepted, and the target's own next token",
            "is one that no drafter said. Nothing survives:",
            "the next tree begins anew below “looked”.",
        ),
    ),
)  # fmt: skip

_TEXT = (
    ("The", "committed"), ("old", "accepted"), ("lighthouse", "accepted"), ("keeper", "own"), ("opened", "accepted"),
    ("the", "own"), ("door", "accepted"), ("and", "accepted"), ("looked", "own"),
)  # fmt: skip
_SPANS = ((1, 3, "round 1: 3 tokens"), (4, 5, "round 2: 2 tokens"), (6, 8, "round 3: 3 tokens"))
_LOOKS: Mapping[str, Mapping[str, object]] = {
    "committed": {"fill": "solid", "edge": "solid", "ink": "on-solid"},
    "accepted": {"fill": "good-fill", "edge": "good", "thick": 2.5},
    "own": {"fill": "own-fill", "edge": "own", "thick": 2.5},
    "kept": {},
    "dropped": {"faint": True},
}


def picture() -> str:
    """The SVG."""
    return sheet(_WIDTH, _HEIGHT, "A token tree through three rounds of speculation", _parts())


def _parts() -> Iterator[str]:
    yield text((40, 48), "One living tree", size=24, anchor="start", weight=700)
    yield text((256, 48), "each round commits tokens and re-roots what is left", size=16, colour="soft", anchor="start")
    for each, middle in zip(ROUNDS, _MIDDLES, strict=True):
        yield from _column(each, middle)
    yield from _reroots()
    yield from _told()
    yield from _legend()


def _place(node: Node, middle: float) -> Point:
    return middle + node.dx, _TOP + node.depth * _STEP


def _column(each: Round, middle: float) -> Iterator[str]:
    yield text((middle, 96), each.title, size=17, weight=650)
    yield _band([(middle + dx, _TOP + depth * _STEP) for dx, depth in each.band])
    yield text((middle + 128, _TOP + 0.55 * _STEP - 7), "frontier", size=13.5, colour="one", anchor="end")
    for node in each.nodes.values():
        if node.below:
            yield _edge(node, each.nodes[node.below], middle)
    for node in each.nodes.values():
        looks = dict(_LOOKS[node.fate])
        dashes = "5 4" if node.ahead else ""
        yield chip(_place(node, middle), node.said, dots=node.by, dashes=dashes, **looks)  # type: ignore[arg-type]
    for row, said in enumerate(each.caption):
        yield text((middle, 538 + 20 * row), said, size=14.5, colour="soft")


def _edge(node: Node, parent: Node, middle: float) -> str:
    (x, y), (to_x, to_y) = _place(parent, middle), _place(node, middle)
    colour = {"accepted": "good", "own": "own"}.get(node.fate, "line")
    faint, thick = node.fate == "dropped", 2.5 if colour != "line" else 1.5
    drawn = line(
        ((x, y + 15), (to_x, to_y - 15)), colour=colour, thick=thick, faint=faint, dashes="" if node.by else "3 4"
    )
    side = 1 if to_x >= x else -1
    return drawn + text((to_x + side * 19, to_y - 24), node.chance, size=13, colour="soft")


def _band(corners: Sequence[Point]) -> str:
    """A closed shape with right angles and round corners."""
    radius, path = 14.0, ""
    count = len(corners)
    for index, (x, y) in enumerate(corners):
        before, after = (
            _toward((x, y), corners[index - 1], radius),
            _toward((x, y), corners[(index + 1) % count], radius),
        )
        path += f"{'L' if path else 'M'}{before[0]:g} {before[1]:g} Q{x:g} {y:g} {after[0]:g} {after[1]:g} "
    return f'<path d="{path}Z" style="fill: var(--band); stroke: var(--band-edge)" stroke-width="1.3"/>'


def _toward(point: Point, other: Point, length: float) -> Point:
    (x, y), (to_x, to_y) = point, other
    whole = abs(to_x - x) + abs(to_y - y)
    return x + (to_x - x) * length / whole, y + (to_y - y) * length / whole


def _reroots() -> Iterator[str]:
    """From a verdict's last token to the root of the next round."""
    for index, name in ((0, "keeper"), (1, "the")):
        node = ROUNDS[index].nodes[name]
        x, y = _place(node, _MIDDLES[index])
        x += width_of(node.said) / 2 + 14
        to_x = _MIDDLES[index + 1] - width_of(node.said) / 2 - 18
        turn = _MIDDLES[index] + 185
        yield arrow(
            f"M{x:g} {y:g} C{turn + 22:g} {y:g} {turn - 30:g} {_TOP:g} {to_x:g} {_TOP:g}", colour="own", thick=2
        )
        yield text((turn + 32, _TOP - 14), "re-root", size=14, colour="own", weight=600)


def _told() -> Iterator[str]:
    """The text that came of it."""
    x, centres = 96.0, list[tuple[float, float]]()
    yield box((30, 606), (_WIDTH - 60, 96), fill="node", edge="edge", radius=14)
    for said, fate in _TEXT:
        width = max(width_of(said) + 24, 44)
        yield chip((x + width / 2, 642), said, **_LOOKS[fate])  # type: ignore[arg-type]
        centres.append((x, x + width))
        x += width + 14
    for first, last, said in _SPANS:
        start, end = centres[first][0], centres[last][1]
        yield f'<path d="M{start:g} 666 v6 H{end:g} v-6" style="fill: none; stroke: var(--line)" stroke-width="1.5"/>'
        yield text(((start + end) / 2, 690), said, size=14, colour="soft")
    yield text((x + 14, 640), "8 tokens in 3 passes", size=15.5, anchor="start", weight=650)
    yield text((x + 14, 660), "and the same 8 without drafts", size=14, colour="soft", anchor="start")


def _legend() -> Iterator[str]:
    y, x = 742.0, 40.0
    items = (
        ("committed", {"fill": "solid", "edge": "solid"}, "committed"),
        ("accepted", {"fill": "good-fill", "edge": "good", "thick": 2.5}, "accepted guess"),
        ("own", {"fill": "own-fill", "edge": "own", "thick": 2.5}, "the target's own next token"),
        ("ahead", {"fill": "node", "edge": "line", "dashes": "5 4"}, "run-ahead"),
        ("frontier", {"fill": "band", "edge": "band-edge"}, "frontier: checked in one pass"),
    )
    for _, looks, said in items:
        yield box((x, y - 11), (26, 16), radius=8, **looks)
        yield text((x + 34, y + 2), said, size=14, anchor="start")
        x += 34 + width_of(said, 14) + 26
    x = 40.0
    for colour, said in (("one", "guessed by one drafter"), ("two", "by another; both dots: by both")):
        yield f'<circle cx="{x + 13:g}" cy="{y + 26:g}" r="5" style="fill: var(--{colour})"/>'
        yield text((x + 34, y + 31), said, size=14, anchor="start")
        x += 34 + width_of(said, 14) + 26
    yield text((x, y + 31), ".6  confidence, given its parent", size=14, colour="soft", anchor="start")
    x += width_of(".6  confidence, given its parent", 14) + 26
    yield f'<g opacity="0.42">{text((x, y + 31), "pale: dropped by the verdict", size=14, anchor="start")}</g>'
