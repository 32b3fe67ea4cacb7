"""Writes what is made from code into the pages: `python -m docs.make`; `--check` only compares.

A page says where: everything between `<!-- made: NAME -->` and `<!-- end -->` is the part of that name.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from contracts.config.reference import reference
from docs.make import commands, grpc, http, sdk
from docs.make.pictures import living_tree, processes
from router.http.schemas import ChatRequest, CompletionRequest, GenerationSettings

__all__ = ["main"]

_DOCS = Path(__file__).parents[1]
_PLACE = re.compile(r"(<!-- made: ([\w.-]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)

PARTS: Mapping[str, Callable[[], str]] = {
    "configuration": reference,
    "commands": commands.specfleet_commands,
    "processes": commands.processes,
    "completions": lambda: http.fields_of(CompletionRequest, without=GenerationSettings),
    "chat": lambda: http.fields_of(ChatRequest, without=GenerationSettings),
    "generation": lambda: http.fields_of(GenerationSettings),
    "clients": lambda: sdk.exports("specfleet.client") + "\n" + sdk.exports("specfleet.async_client"),
    "options": lambda: sdk.exports("specfleet.options"),
    "events": lambda: sdk.exports("specfleet.events"),
    "errors": lambda: sdk.exports("specfleet.errors"),
    "admin": lambda: sdk.exports("specfleet.admin"),
    "grpc-clients": lambda: grpc.face("inference"),
    "grpc-operators": lambda: grpc.face("admin"),
    "grpc-types": lambda: grpc.face("types"),
    "grpc-errors": grpc.errors,
}
"""What can be asked for in a page."""

PICTURES: Mapping[str, Callable[[], str]] = {
    "living-tree.svg": living_tree.picture,
    "processes.svg": processes.picture,
}
"""By file name in docs/pictures/."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where `--check` finds a file to be another."""
    parser = argparse.ArgumentParser(prog="python -m docs.make", description="Write the parts of docs/ made from code.")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where a file is not up to date")
    options = parser.parse_args(arguments)
    status = 0
    for file, text in _made().items():
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            continue
        if options.check:
            print(
                f"{file.relative_to(_DOCS.parent)} is not what the code says; `python -m docs.make` writes it",
                file=sys.stderr,
            )
            status = 1
        else:
            file.write_text(text, encoding="utf-8")
    return status


def _made() -> dict[Path, str]:
    pages = {file: file.read_text(encoding="utf-8") for file in sorted(_DOCS.rglob("*.md"))}
    filled = {file: _PLACE.sub(_filled, text) for file, text in pages.items() if _PLACE.search(text)}
    return filled | {_DOCS / "pictures" / name: draw() for name, draw in PICTURES.items()}


def _filled(place: re.Match[str]) -> str:
    head, name, tail = place.groups()
    if name not in PARTS:
        raise SystemExit(f"a page asks for the part {name!r}; there are {', '.join(PARTS)}")
    return f"{head}\n{PARTS[name]().strip()}\n\n{tail}"


if __name__ == "__main__":
    sys.exit(main())
