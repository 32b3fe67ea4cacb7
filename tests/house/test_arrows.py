"""The import rules of pyproject.toml allow exactly the arrows of the house.

They are run over small houses of our own making: one with every allowed arrow, in which each rule must hold, and one
with every other arrow, in which each of those must be found.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

ALLOWED = {
    "cluster": ["workers", "router", "engine", "contracts", "specfleet"],
    "workers": ["engine", "speculation", "contracts", "specfleet"],
    "router": ["speculation", "contracts", "specfleet"],
    "engine": ["kernels", "contracts"],
    "speculation": ["contracts"],
    "kernels": [],
    "contracts": [],
    "specfleet": [],
}
ROOMS = list(ALLOWED)
ABOVE = {"models": ROOMS, "benchmarks": [*ROOMS, "models"]}
# Which rooms may use what is not ours; cluster.ray_api is the one file that may import ray.
OUTSIDE = {
    "torch": ["cluster", "workers", "engine", "kernels"],
    "ray": [],
    "tests": [],
}


def build_house(folder: Path, arrows: set[tuple[str, str]]) -> None:
    """A package for each room, with a file `to_OTHER.py` for each arrow."""
    for room in [*ROOMS, *ABOVE]:
        (folder / room).mkdir(parents=True)
        (folder / room / "__init__.py").touch()
    (folder / "engine" / "text").mkdir()
    (folder / "engine" / "text" / "__init__.py").touch()
    for room, other in arrows:
        (folder / room / f"to_{other}.py").write_text(f"import {other}\n")
    (folder / "pyproject.toml").write_text((CHECKOUT / "pyproject.toml").read_text())


def lint(folder: Path) -> str:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    return done.stdout


ALLOWED_ARROWS = {(room, other) for room, others in {**ALLOWED, **ABOVE}.items() for other in others}
ALLOWED_ARROWS |= {(room, other) for other, rooms in OUTSIDE.items() for room in rooms}


def test_every_allowed_arrow_is_allowed(tmp_path: Path) -> None:
    build_house(tmp_path, ALLOWED_ARROWS)
    (tmp_path / "cluster" / "ray_api.py").write_text("import ray\n")
    assert ", 0 broken." in lint(tmp_path)


def test_every_other_arrow_is_found(tmp_path: Path) -> None:
    every = {(room, other) for room in ROOMS for other in [*ROOMS, *ABOVE, *OUTSIDE] if room != other}
    forbidden = every - ALLOWED_ARROWS
    build_house(tmp_path, forbidden)
    found = {(room, other) for room, other in re.findall(r"(\w+)\.to_\w+ -> (\w+)", lint(tmp_path))}
    assert found == forbidden


def test_the_router_reaches_text_and_text_reaches_no_model(tmp_path: Path) -> None:
    build_house(tmp_path, set())
    (tmp_path / "engine" / "text" / "words.py").touch()
    (tmp_path / "router" / "front.py").write_text("from engine.text import words\n")
    assert ", 0 broken." in lint(tmp_path)
    (tmp_path / "engine" / "text" / "words.py").write_text("import torch\n")
    assert "engine.text.words -> torch" in lint(tmp_path)


def test_a_type_only_import_is_an_arrow(tmp_path: Path) -> None:
    build_house(tmp_path, set())
    (tmp_path / "router" / "peek.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import engine\n"
    )
    assert "router.peek -> engine" in lint(tmp_path)
