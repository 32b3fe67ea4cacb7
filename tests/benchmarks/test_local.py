"""`python -m benchmarks.local` as a user runs it, on a small random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.local import main
from tests.engine.checkpoints import write_checkpoint

PROMPTS = ["the cat sat on the mat", "a", "one two three four five six seven eight nine ten"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{i}", "prompt": text}) + "\n" for i, text in enumerate(PROMPTS)))
    return path


def run(folder: Path, prompts: Path, *arguments: str) -> dict[str, Any]:
    out = prompts.with_name("out.json")
    common = ["--target", str(folder), "--prompts", str(prompts), "--max-tokens", "16", "--threads", "2"]
    assert main([*common, "--json", str(out), *arguments]) == 0
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def tokens(content: dict[str, Any]) -> list[list[int]]:
    return [result["token_ids"] for result in content["results"]]


def test_results_have_what_the_help_says(folder: Path, prompts: Path) -> None:
    content = run(folder, prompts, "--ignore-eos")
    assert [result["id"] for result in content["results"]] == ["p0", "p1", "p2"]
    for result in content["results"]:
        assert set(result) == {"id", "token_ids", "text", "num_rounds", "elapsed_s"}
        assert len(result["token_ids"]) == 16
        assert result["num_rounds"] == 16
        assert result["elapsed_s"] > 0
    assert content["steps"]["num_steps"] == 48
    assert sum(part["num_steps"] for part in content["steps"]["by_rows"].values()) == 48


@pytest.mark.parametrize("extra", [["--batch", "3"], ["--batch", "2", "--threads", "1"], ["--batch", "16"]])
@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_together_or_alone_gives_the_same_tokens(
    folder: Path, prompts: Path, extra: list[str], temperature: str
) -> None:
    sampling = ["--temperature", temperature, "--seed", "11", "--ignore-eos"]
    alone = run(folder, prompts, *sampling)
    assert tokens(run(folder, prompts, *sampling, *extra)) == tokens(alone)


def test_the_seed_matters_above_temperature_0(folder: Path, prompts: Path) -> None:
    first, again, other = (run(folder, prompts, "--temperature", "1", "--seed", seed) for seed in ("1", "1", "2"))
    assert tokens(first) == tokens(again)
    assert tokens(first) != tokens(other)


def test_two_ranks_give_the_tokens_of_one(folder: Path, prompts: Path) -> None:
    arguments = ["--dtype", "float32", "--ignore-eos"]
    assert tokens(run(folder, prompts, *arguments, "--tp", "2")) == tokens(run(folder, prompts, *arguments))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no prompts"),
        ("not json\n", "line 1"),
        ('{"id": 1, "prompt": "x"}\n{"id": 2}\n', "line 2"),
        ('{"id": 1, "prompt": 5}\n', "line 1"),
        (json.dumps({"id": "long", "prompt": "word " * 4000}) + "\n", "prompt long has"),
    ],
)
def test_bad_prompts_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, words: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    assert main(["--target", str(folder), "--prompts", str(path)]) == 2
    assert words in capsys.readouterr().err


def test_a_missing_model_and_wrong_numbers_are_named(
    tmp_path: Path, prompts: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--target", str(tmp_path / "nowhere"), "--prompts", str(prompts)]) == 2
    assert "nowhere" in capsys.readouterr().err
    for option in ("--max-tokens", "--batch", "--tp", "--threads"):
        with pytest.raises(SystemExit) as stopped:
            main(["--target", str(folder), "--prompts", str(prompts), option, "0"])
        assert stopped.value.code == 2
        assert f"argument {option}: '0' is not a whole number from 1" in capsys.readouterr().err
    assert main(["--target", str(folder), "--prompts", str(prompts), "--temperature", "-1"]) == 2
    assert "temperature is -1" in capsys.readouterr().err
