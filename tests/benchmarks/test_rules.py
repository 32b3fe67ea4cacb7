"""The table of verification rules: what was asked for is in it, and what cannot be is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.generation import Prompt, generate
from benchmarks.rules import main
from benchmarks.rules_on_models import contexts_of
from contracts.config import EngineConfig
from contracts.errors import InvalidArgument
from contracts.types import SamplingParams, StopParams
from engine.load import load_engine
from tests.engine.checkpoints import write_checkpoint

PROMPTS = [Prompt(id="one", prompt="the target alone"), Prompt(id="two", prompt="SELECT name")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A target and a smaller model."""
    folder = tmp_path_factory.mktemp("models")
    return [write_checkpoint(folder / f"{n}", "llama", num_hidden_layers=n, seed=n, std=0.05) for n in (2, 1)]


def arguments_of(folders: list[Path], folder: Path) -> list[str]:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": each.id, "prompt": each.prompt}) + "\n" for each in PROMPTS))
    return ["--target", str(folders[0]), "--drafter", str(folders[1]), "--prompts", str(path), "--threads", "1"]


def table(text: str) -> dict[str, list[float]]:
    return {line[:28].strip(): [float(part) for part in line[28:].split()] for line in text.splitlines()[2:]}


def test_the_table_has_a_row_for_each_rule_and_the_bound(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--rule block --rule rsd --paths 2 --depth 2 --vocab 3 --rounds 20"
    assert main(arguments.split()) == 0
    rows = table(capsys.readouterr().out)
    assert list(rows) == ["block", "rsd", "shared_noise, runners-up", "bound for paths"]
    for values in rows.values():
        assert all(1.0 <= value <= 3.0 for value in values)


def test_a_vocabulary_too_large_for_sets_leaves_out_what_needs_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--depth", "1", "--paths", "1", "--vocab", "13", "--rounds", "5"]) == 0
    assert "optimal_transport" not in capsys.readouterr().out


def test_an_unknown_rule_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rule", "blok"]) == 2
    assert "'blok'" in capsys.readouterr().err


def test_real_models_have_a_column_for_each_temperature(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments_of(folders, tmp_path)
    shape = ["--paths", "2", "--depth", "2", "--contexts", "3", "--rounds", "4", "--dtype", "float32"]
    assert main([*given, *shape, "--temperature", "0", "--temperature", "0.7"]) == 0
    text = capsys.readouterr().out
    assert "3 places" in text
    assert text.splitlines()[1].split() == ["T=0", "T=0.7"]
    rows = table(text)
    assert [*list(rows)[-2:]] == ["shared_noise", "shared_noise, runners-up"]
    assert {"standard", "block", "spectr", "rsd", "traversal", "greedy_multipath", "specinfer"} <= set(rows)
    assert not any(name.startswith("optimal_transport") for name in rows)
    assert all(1.0 <= value <= 3.0 for values in rows.values() for value in values)
    # Greedy drafts leave nothing to chance, so all rules of one path are the same there.
    assert rows["standard"][0] == rows["block"][0] == rows["shared_noise"][0]
    assert rows["shared_noise, runners-up"][1] >= rows["shared_noise"][1]


def test_a_model_that_judges_itself_accepts_all(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments_of([folders[0], folders[0]], tmp_path)
    rules = ["--rule", "standard", "--rule", "block"]
    assert main([*given, *rules, "--depth", "3", "--contexts", "2", "--rounds", "3"]) == 0
    rows = table(capsys.readouterr().out)
    assert rows == {name: [4.0] for name in ("standard", "block", "shared_noise", "shared_noise, runners-up")}


def test_places_lie_along_the_targets_own_answers(folders: list[Path]) -> None:
    target = load_engine(EngineConfig(model=str(folders[0]), dtype="float32", num_threads=1))
    found = contexts_of(target, PROMPTS, num_contexts=5, temperature=0.8, seed=3, depth=4)
    stop = StopParams(max_tokens=24, ignore_eos=True)
    answers, _ = generate(target, PROMPTS, SamplingParams(temperature=0.8, seed=3), stop)
    whole = [
        [*target.tokenizer.encode(each.prompt), *answer.token_ids]
        for each, answer in zip(PROMPTS, answers, strict=True)
    ]
    assert len(found) == 5
    for index, context in enumerate(found):
        assert context == whole[index % 2][: len(context)]
    assert len({tuple(context) for context in found}) == 5
    with pytest.raises(InvalidArgument, match="prompt one has"):
        contexts_of(target, PROMPTS, num_contexts=500, temperature=0.8, seed=3, depth=4)


@pytest.mark.parametrize("missing", [0, 2, 4])
def test_models_and_prompts_go_together(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: int
) -> None:
    given = arguments_of(folders, tmp_path)[:6]
    assert main(given[:missing] + given[missing + 2 :]) == 2
    assert "--target, --drafter and --prompts go together" in capsys.readouterr().err
