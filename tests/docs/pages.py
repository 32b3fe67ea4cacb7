"""The pages of docs/ and the folders' READMEs, and the blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = sorted({*CHECKOUT.glob("*.md"), *CHECKOUT.glob("*/README.md"), *(CHECKOUT / "docs").rglob("*.md")})

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NEEDS = re.compile(r"^# needs: (.+)$", re.MULTILINE)
_LINE_NEEDS = re.compile(r"^.*#.*\bneeds: .+\n", re.MULTILINE)
_FILE = re.compile(r"\A# file: ([\w.-]+)\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What stands between two fences."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(CHECKOUT)}:{self.line}"

    @property
    def needs(self) -> str:
        """What it says that a test has not."""
        found = _NEEDS.search(self.text)
        return found[1] if found else ""

    @property
    def file(self) -> str:
        """Under which name it is to be written down."""
        found = _FILE.match(self.text)
        return found[1] if found else ""

    @property
    def commands(self) -> str:
        """Without the lines that need something."""
        return _LINE_NEEDS.sub("", self.text)


def blocks_of(page: Path, text: str | None = None) -> list[Block]:
    text = page.read_text(encoding="utf-8") if text is None else text
    return [
        Block(page=page, line=text.count("\n", 0, found.start()) + 1, language=found[2], text=found[3])
        for found in _FENCE.finditer(text)
    ]


def without_blocks(page: Path) -> str:
    """A page's own words."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))
