"""The processes of a fleet, and what flows between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from docs.make.pictures.drawing import arrow, box, sheet, text

__all__ = ["picture"]

_WIDTH, _HEIGHT = 1200.0, 720.0
_ROUTER_PARTS = (
    "front door: admission, keys, quotas",
    "scheduler: waiting, rounds, budget",
    "the token tree of each sequence",
    "routing and expertise",
)
_KINDS = (
    ("one", "general", "small model"),
    ("two", "sql", "small model"),
    ("three", "recycling", "no model"),
)


def picture() -> str:
    """The SVG."""
    return sheet(_WIDTH, _HEIGHT, "The processes of a fleet and what flows between them", _parts())


def _parts() -> Iterator[str]:
    yield text((40, 50), "Processes", size=24, anchor="start", weight=700)
    yield text(
        (194, 50),
        "and what flows between them; to and from workers, token ids and numbers",
        size=16,
        colour="soft",
        anchor="start",
    )
    yield box((866, 84), (304, 560), fill="band", edge="band-edge", radius=18, dashes="7 5")
    yield text((1018, 112), "placed and restarted by Ray", size=13.5, colour="one", weight=600)
    yield text((1018, 630), "Ray carries no tokens", size=13.5, colour="one")
    yield from _card(
        40, 190, 200, 150, "Clients", "ink", ("Python SDK", "OpenAI's clients, curl", "specfleet generate, chat")
    )
    yield from _card(40, 480, 200, 150, "Operators", "ink", ("specfleet top, doctor", "specfleet drain", "Prometheus"))
    yield from _card(400, 120, 270, 330, "Router", "own", ())
    yield from _inside_router()
    yield from _card(
        410, 556, 250, 112, "Store", "line", ("Valkey or Redis: the journal,", "the lease, what was learned")
    )
    yield from _verifier()
    yield from _drafters()
    yield from _flows()


def _card(
    x: float, y: float, width: float, height: float, title: str, edge: str, lines: Sequence[str]
) -> Iterator[str]:
    yield box((x, y), (width, height), fill="paper", edge=edge, radius=14, thick=2)
    yield text((x + width / 2, y + 34), title, size=18, weight=650)
    for row, said in enumerate(lines):
        yield text((x + width / 2, y + 62 + 22 * row), said, size=13.5, colour="soft")


def _inside_router() -> Iterator[str]:
    for row, said in enumerate(_ROUTER_PARTS):
        yield box((416, 172 + 50 * row), (238, 38), fill="own-fill", edge="own", radius=10, thick=1.2)
        yield text((535, 196 + 50 * row), said, size=13)
    yield text((535, 400), "asyncio, without weights or torch", size=13.5, colour="soft")
    yield text((535, 424), "one leads, others may stand by", size=13.5, colour="soft")


def _verifier() -> Iterator[str]:
    yield from _card(886, 132, 264, 178, "Verifier group", "good", ("the target: it decides every token",))
    for index in range(4):
        yield box((910 + index * 56, 214), (48, 40), fill="good-fill", edge="good", radius=9)
        yield text((934 + index * 56, 239), f"rank {index}", size=12)
    yield text((1018, 280), "rank 0 leads; NCCL or gloo between", size=13.5, colour="soft")


def _drafters() -> Iterator[str]:
    yield from _card(886, 350, 264, 256, "Drafter nodes", "one", ("a process each, on any machine",))
    for index, (colour, name, kind) in enumerate(_KINDS):
        y = 430 + 42 * index
        yield box((906, y), (224, 34), fill="node", edge=colour, radius=10, thick=2)
        yield text((922, y + 22), name, size=13.5, anchor="start", weight=600)
        yield text((1114, y + 22), kind, size=13.5, anchor="end", colour="soft")
    yield text((1018, 578), "each may vanish at any moment", size=13.5, colour="soft")


def _flows() -> Iterator[str]:
    yield from _flow("M246 246 H392", "ink", (319, 236), "prompts", "")
    yield from _flow("M392 290 H246", "ink", (319, 310), "tokens, usage,", "who guessed what")
    yield text((319, 212), "gRPC or HTTP", size=13.5, colour="soft")

    yield from _flow("M678 168 H878", "good", (768, 158), "rounds: frontiers", "")
    yield from _flow("M878 212 H678", "good", (768, 232), "verdicts,", "what a step cost")

    yield from _flow("M878 374 H678", "one", (768, 364), "draft nodes", "")
    yield from _flow("M678 418 H878", "one", (768, 438), "committed tokens,", "what to draft next")
    yield text((768, 296), "workers dial in:", size=13.5, colour="soft")
    yield text((768, 314), "a gRPC stream each", size=13.5, colour="soft")

    yield arrow("M535 456 V549", colour="ink", both=True)
    yield text((548, 496), "requests and their tokens:", size=13.5, anchor="start", weight=600)
    yield text((548, 516), "another router goes on from them", size=13.5, colour="soft", anchor="start")

    yield arrow("M246 530 C350 530 370 500 420 456", colour="ink", both=True)
    yield text((262, 558), "status, metrics,", size=13.5, anchor="start", weight=600)
    yield text((262, 578), "timeline, drain", size=13.5, colour="soft", anchor="start")


def _flow(path: str, colour: str, at: tuple[float, float], said: str, more: str) -> Iterator[str]:
    """An arrow with what flows along it."""
    yield arrow(path, colour=colour)
    yield text(at, said, size=13.5, weight=600)
    if more:
        yield text((at[0], at[1] + 18), more, size=13.5, colour="soft")
