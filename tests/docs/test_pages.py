"""What pages name exists: languages, YAML, commands in the middle of a text, messages, links."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from contracts.config import FleetConfig, load_config
from specfleet.cli.app import app
from specfleet.v1.inference_pb2 import SpeculationStatistics
from tests.docs.pages import CHECKOUT, PAGES, Block, blocks_of, without_blocks

LANGUAGES = {"bash", "python", "py", "yaml", "json", "text", "promql"}
ROOMS = ["cluster", "contracts", "engine", "router", "specfleet", "workers"]
ALWAYS = {"--help"}


def spans(program: str) -> list[tuple[str, str]]:
    """Commands in the middle of a text that begin so, and where they are."""
    found = [
        (str(page.relative_to(CHECKOUT)), " ".join(span.split()).removeprefix(".venv/bin/"))
        for page in PAGES
        for span in re.findall(r"`([^`]+)`", without_blocks(page))
    ]
    return [(page, span) for page, span in found if span.startswith(f"{program} ")]


def flags(command: str) -> set[str]:
    return set(re.findall(r"(?<= )--[a-z][a-z-]*", command)) - ALWAYS


def test_every_block_says_its_language() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page)]
    assert [block.name for block in blocks if block.language not in LANGUAGES] == [], f"languages are {LANGUAGES}"
    num_fences = sum(len(re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)) for page in PAGES)
    assert num_fences == 2 * len(blocks), "all fences are found"
    assert len([block for block in blocks if block.language in ("bash", "python") and not block.needs]) > 15


@pytest.mark.parametrize(
    "block",
    [block for page in PAGES for block in blocks_of(page) if block.language == "yaml"],
    ids=lambda block: block.name,
)
def test_yaml_can_be_read_and_that_of_a_fleet_is_one(block: Block) -> None:
    (found,) = yaml.safe_load_all(block.text)
    if set(found) <= set(FleetConfig.model_fields):
        load_config(block.text if "engine" in found else "engine: {model: some}\n" + block.text)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    assert [span for span in spans("make") if span[1].split()[1] not in targets] == []


def test_commands_of_the_program_exist() -> None:
    known = dict(commands_of(typer.main.get_command(app), ""))
    assert len(spans("specfleet")) > 20
    assert [span for span in spans("specfleet") if not is_known(span[1], known)] == []


def commands_of(command: Any, name: str) -> Iterator[tuple[str, set[str]]]:
    """Each command and its options; those of the program itself have no name."""
    yield name, {flag for parameter in command.params for flag in parameter.opts}
    for inner, below in getattr(command, "commands", {}).items():
        yield from commands_of(below, f"{name} {inner}".strip())


def is_known(span: str, known: Mapping[str, set[str]]) -> bool:
    """Whether it is the longest command that begins it, with options of its own."""
    words = [word.rstrip(",.;:") for word in span.split()[1:3]]
    name = next((name for name in (" ".join(words), *words[:1]) if name in known), "")
    return flags(span) <= known[name] and (name != "" or words[0].startswith("-"))


def test_modules_that_are_run_exist_and_know_their_options() -> None:
    assert len(spans("python -m")) > 20
    for page, command in spans("python -m"):
        module = command.split()[2].rstrip(",.;")
        if module.endswith("NAME"):  # any of several
            continue
        assert importlib.util.find_spec(module) is not None, f"{page}: {command}"
        if (CHECKOUT / module.partition(".")[0]).is_dir():
            unknown = flags(command) - flags_in(module.partition(".")[0])
            assert unknown == set(), f"{page}: {command}"


@cache
def flags_in(room: str) -> set[str]:
    """All options that some file of a room names."""
    files = [*(CHECKOUT / room).rglob("*.py")]
    return {flag for file in files for flag in re.findall(r'"(--[a-z][a-z-]*)"', file.read_text(encoding="utf-8"))}


def test_messages_of_the_troubleshooting_page_are_said() -> None:
    """What stands in “these quotes”, between its gaps (…), is part of a text in the code."""
    page = (CHECKOUT / "docs" / "operations.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| “([^”]+)”", page, re.MULTILINE)
    assert len(quoted) > 20
    said = "\n".join(text for room in ROOMS for file in (CHECKOUT / room).rglob("*.py") for text in texts_in(file))
    parts = [part.strip() for message in quoted for part in re.split("…|\\.\\.\\.", message)]
    assert [part for part in parts if part not in said] == []


def texts_in(file: Path) -> list[str]:
    """The texts of a program, those that are formatted with gaps as pieces."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_the_extension_of_http_is_told_whole() -> None:
    page = (CHECKOUT / "docs" / "reference" / "http.md").read_text(encoding="utf-8")
    section = page.partition("**The extension")[2].partition("\n## ")[0]
    names = " ".join(row.split("|")[1] for row in section.splitlines() if row.startswith("| `"))
    told = set(re.findall(r"`(\w+)`", names))
    assert told == set(SpeculationStatistics.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("page", [CHECKOUT / "README.md"], ids=["README"])
def test_links_of_the_front_page_lead_somewhere(page: Path) -> None:
    """The other pages' links are checked by the site."""
    links = re.findall(r"\]\(([^)#]+)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8"))
    assert len(links) > 10
    for target, anchor in links:
        file = page.parent / target
        assert file.exists(), target
        assert not anchor or anchor in anchors_of(file), f"{target}#{anchor}"


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Strict: a link, an anchor, a picture or a page of the menu that is not there fails."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=CHECKOUT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "concepts" / "index.html").is_file()
