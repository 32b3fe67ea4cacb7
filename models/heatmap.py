"""A labelled heat map as an SVG picture, so that no plotting library is needed."""

from collections.abc import Sequence
from html import escape

CELL_WIDTH, CELL_HEIGHT, LABEL_WIDTH, HEAD_HEIGHT = 92, 36, 150, 66
PALE, DEEP = (247, 251, 255), (8, 81, 156)


def heat_map(title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    """One cell per value, darker for larger, each with its number; `values` is [rows][columns]."""
    flat = [value for row in values for value in row]
    low, high = min(flat), max(flat)
    width, height = LABEL_WIDTH + CELL_WIDTH * len(columns) + 10, HEAD_HEIGHT + CELL_HEIGHT * len(rows) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for index, column in enumerate(columns):
        x = LABEL_WIDTH + CELL_WIDTH * index + CELL_WIDTH / 2
        parts.append(f'<text x="{x}" y="{HEAD_HEIGHT - 10}" text-anchor="middle">{escape(column)}</text>')
    for index, (row, row_values) in enumerate(zip(rows, values, strict=True)):
        y = HEAD_HEIGHT + CELL_HEIGHT * index
        parts.append(f'<text x="{LABEL_WIDTH - 10}" y="{y + 23}" text-anchor="end">{escape(row)}</text>')
        parts.extend(
            cell(LABEL_WIDTH + CELL_WIDTH * number, y, value, (value - low) / (high - low) if high > low else 0.5)
            for number, value in enumerate(row_values)
        )
    return "\n".join([*parts, "</svg>", ""])


def cell(x: int, y: int, value: float, depth: float) -> str:
    red, green, blue = (round(pale + depth * (deep - pale)) for pale, deep in zip(PALE, DEEP, strict=True))
    ink = "white" if depth > 0.55 else "black"
    return (
        f'<rect x="{x}" y="{y}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}" fill="rgb({red},{green},{blue})"/>'
        f'<text x="{x + CELL_WIDTH // 2}" y="{y + 22}" text-anchor="middle" fill="{ink}">{value:.2f}</text>'
    )
