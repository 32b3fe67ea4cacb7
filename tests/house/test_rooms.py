"""The rooms are ours, described, and reachable: each top-level package is the one of this checkout."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
ROOMS = [
    "benchmarks",
    "cluster",
    "contracts",
    "engine",
    "kernels",
    "models",
    "router",
    "specfleet",
    "speculation",
    "workers",
]
OTHER_FOLDERS = ["docs", "helm", "protos", "tests"]


def imported_roots(file: Path) -> set[str]:
    roots: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").partition(".")[0])
    return roots


def test_every_top_level_package_is_a_known_room() -> None:
    assert sorted(init.parent.name for init in CHECKOUT.glob("*/__init__.py")) == ROOMS


def test_every_room_resolves_inside_this_checkout() -> None:
    # Another published distribution is called `kernels`. A fresh process, for this one has imported some already.
    program = f"import importlib; [print(importlib.import_module(room).__file__) for room in {ROOMS}]"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [str(CHECKOUT / room / "__init__.py") for room in ROOMS]


@pytest.mark.parametrize("folder", ROOMS + OTHER_FOLDERS)
def test_every_top_level_folder_says_what_lives_there(folder: str) -> None:
    text = (CHECKOUT / folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {folder}/\n")
    assert folder not in ROOMS or "May import: " in text


def test_contracts_need_the_standard_library_pydantic_and_yaml_only() -> None:
    allowed = {"contracts", "pydantic", "yaml", *sys.stdlib_module_names}
    for file in (CHECKOUT / "contracts").rglob("*.py"):
        assert imported_roots(file) <= allowed, file


@pytest.mark.parametrize("room", ["contracts", "engine", "kernels"])
def test_the_structure_page_names_every_file(room: str) -> None:
    page = (CHECKOUT / "docs" / "structure.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {room}/\n")[2].partition("\n## ")[0]
    files = [
        file.relative_to(CHECKOUT / room).as_posix()
        for file in (CHECKOUT / room).rglob("*.py")
        if file.name != "__init__.py"
    ]
    assert [name for name in sorted(files) if f"`{name}`" not in section] == []
