"""Every command in the pages is run, but those that say what they need and a test has not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from specfleet import Admin, Client
from tests.cluster.running_fleet import until
from tests.docs.fleet import DocsFleet, docs_fleet, like_the_checkout
from tests.docs.pages import CHECKOUT, PAGES, Block, blocks_of

_RUN = ("bash", "python")


def is_run(block: Block) -> bool:
    return block.language in _RUN and not block.needs and not block.file


PAGES_WITH_COMMANDS = [page for page in PAGES if any(map(is_run, blocks_of(page)))]
PROMPT = "one two three one two three one two"


@pytest.fixture(scope="module")
def fleet() -> Iterator[DocsFleet]:
    with docs_fleet() as found:
        yield found


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_command_works(page: Path, fleet: DocsFleet, tmp_path: Path) -> None:
    folder = like_the_checkout(tmp_path)
    for block in blocks_of(page):
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
        elif is_run(block):
            fleet.run(block, folder)


def test_a_command_that_fails_is_found(fleet: DocsFleet, tmp_path: Path) -> None:
    page = CHECKOUT / "docs" / "made-up.md"
    (good, marked, bad) = blocks_of(
        page, "```bash\ntrue  # fine\n```\n```bash\nfalse # needs: luck\ntrue\n```\n```bash\nfalse\ntrue\n```\n"
    )
    for block in (good, marked):
        fleet.run(block, tmp_path)
    with pytest.raises(AssertionError, match=r"made-up\.md:8 ended with 1"):
        fleet.run(bad, tmp_path)


def test_the_drafter_of_thirty_lines_joins_and_guesses(fleet: DocsFleet, tmp_path: Path) -> None:
    """Taken from its page, it plugs into a fleet that runs, and changes nothing but its speed."""
    for block in blocks_of(CHECKOUT / "docs" / "drafters.md"):
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    command = ["-m", "workers.drafter", "--config", "echo-fleet.yaml", "--name", "echo", "--router", fleet.grpc]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen([sys.executable, *command], cwd=tmp_path, env=environment)
    try:
        with Client(fleet.grpc) as client, Admin(fleet.grpc) as admin:

            def has_joined() -> bool:
                assert process.poll() is None, "it ended instead"
                return "echo" in {each.name for each in admin.status().drafters}

            until(has_joined, "the drafter joined")
            plain = client.complete(PROMPT, max_tokens=40, mode="off", ignore_eos=True)

            def is_helped() -> bool:  # whether drafts pay just now is for the router to find out
                helped = client.complete(PROMPT, max_tokens=40, mode="fleet", drafters=["echo"], ignore_eos=True)
                assert helped.token_ids == plain.token_ids
                return "echo" in helped.drafters

            until(is_helped, "one of its guesses was right")
    finally:
        process.terminate()
        assert process.wait(60) == 0
