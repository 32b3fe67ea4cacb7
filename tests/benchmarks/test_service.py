"""`python -m benchmarks.service`, tiny: who is asked what, and what is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import service
from benchmarks.service_rig import say

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"


def prompts(path: Path, *names: str) -> str:
    records = [{"id": name, "prompt": f"Tell me of {name}."} for name in names]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def run(*arguments: str) -> int:
    models = ["--target", str(DEMO / "target"), "--drafter", "prompt_lookup"]
    return service.main([*models, "--max-tokens", "6", "--rounds", "1", *arguments])


def test_lessons_come_first_and_once_and_every_mode_has_its_turns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def recorded(stub: Any, prompt: Any, **how: Any) -> tuple[tuple[int, ...], float]:
        asked.append(prompt.id)
        return await say(stub, prompt, **how)

    monkeypatch.setattr(service, "say", recorded)
    asks = prompts(tmp_path / "asks.jsonl", "apples", "pears")
    teaches = prompts(tmp_path / "teaches.jsonl", "plums", "figs")
    assert run("--prompts", asks, "--teach", teaches, "--mode", "off", "--mode", "fleet") == 0
    warming_up, turn = ["apples", "pears"] * 2, ["apples", "pears"] * 2  # of both modes
    assert asked == ["plums", "figs", *warming_up, *turn]
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == ["off", "fleet"]
    assert rows[0][3] == "1.00 (1.00 to 1.00)"


@pytest.mark.parametrize("option", ["--prompts", "--teach"])
def test_a_file_that_is_not_there_is_named(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: prompts(tmp_path / f"{name[2:]}.jsonl", "apples") for name in ("--prompts", "--teach")}
    files[option] = str(tmp_path / "none.jsonl")
    assert run(*[part for pair in files.items() for part in pair]) == 2
    assert "none.jsonl" in capsys.readouterr().err
