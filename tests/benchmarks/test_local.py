"""`python -m benchmarks.local` as a user runs it, on a small random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.local import main
from tests.engine.checkpoints import write_checkpoint
from workers.drafters.registry import KINDS

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


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the same tokenizer that says other things."""
    return write_checkpoint(tmp_path_factory.mktemp("drafter") / "small", "llama", num_hidden_layers=1, seed=1)


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


MODES = [
    ["vanilla"],
    ["tree"],
    ["tree", "--router"],
    ["fused"],
    ["fused", "--router"],
    ["fused", "--fusion", "every_step", "--prune", "0=40", "--prune", "1=1"],
]


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_every_mode_with_every_drafter_says_what_plain_decoding_says(
    folder: Path, other: Path, prompts: Path, temperature: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sampling = ["--temperature", temperature, "--seed", "5", "--ignore-eos", "--dtype", "float32"]
    plain = tokens(run(folder, prompts, *sampling))
    for index, mode in enumerate(MODES):
        kinds = sorted(KINDS)
        names = [str(other), *kinds] if "fused" in mode or "--router" in mode else [[str(other), *kinds][index]]
        drafters = [part for name in names for part in ("--drafter", name)]
        content = run(folder, prompts, *sampling, "--batch", str(1 + index % 3), "--mode", *mode, *drafters)
        assert tokens(content) == plain, (mode, names)
        assert list(content["drafters"]) == [Path(name).name for name in names]
        for of in content["drafters"].values():
            assert set(of) == {"num_proposed", "num_checked", "num_accepted", "num_rounds", "drafting_s"}
            assert of["num_accepted"] <= of["num_checked"]
        assert sum(of["num_rounds"] for of in content["drafters"].values()) > 0
        assert list(content["pruning"]) == (["0", "1"] if "--prune" in mode else [])
        table = capsys.readouterr().out
        assert all(f"\n{Path(name).name} " in table for name in names)
        assert ("after layer 1: " in table) == ("--prune" in mode)


def test_the_target_as_its_own_drafter_settles_whole_chains(folder: Path, prompts: Path) -> None:
    arguments = ["--ignore-eos", "--dtype", "float32", "--temperature", "0.9"]
    content = run(folder, prompts, *arguments, "--mode", "vanilla", "--drafter", str(folder), "--max-draft", "3")
    # Sixteen tokens in rounds of three and the target's own.
    assert [result["num_rounds"] for result in content["results"]] == [4, 4, 4]
    (figures,) = content["drafters"].values()
    assert figures["num_accepted"] == figures["num_checked"] == 3 * 12
    assert figures["num_rounds"] == 12


def test_rules_run_from_the_command_line(folder: Path, other: Path, prompts: Path) -> None:
    arguments = ["--ignore-eos", "--dtype", "float32"]
    content = run(folder, prompts, *arguments, "--mode", "vanilla", "--drafter", str(other), "--rule", "block")
    assert tokens(content) == tokens(run(folder, prompts, *arguments))
    assert "drafters" not in content


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--drafter", "stand"], "have no meaning with --mode off"),
        (["--router"], "have no meaning with --mode off"),
        (["--rule", "block"], "have no meaning with --mode off"),
        (["--prune", "0=8"], "have no meaning with --mode off"),
        (["--mode", "tree"], "--mode tree needs a drafter"),
        (["--mode", "tree", "--drafter", "nobody"], "drafter is 'nobody'; right is a checkpoint folder or one of"),
        (["--mode", "fused", "--drafter", "stand", "--drafter", "stand"], "two drafters are called stand"),
        (["--mode", "tree", "--drafter", "stand", "--prune", "3=8"], "after layers (3,) of 3"),
        (["--mode", "tree", "--drafter", "stand", "--prune", "0=8", "--prune", "0=9"], "names a layer twice"),
        (["--mode", "tree", "--drafter", "stand", "--prune", "0=8", "--prune", "1=9"], "does not rise with depth"),
        (["--mode", "vanilla", "--drafter", "stand", "--rule", "block"], "judges samples of one model"),
        (["--mode", "tree", "--drafter", "OTHER", "--rule", "block"], "judges samples of one model"),
        (["--mode", "vanilla", "--drafter", "OTHER", "--rule", "block", "--batch", "2"], "judges samples of one model"),
        (["--mode", "vanilla", "--drafter", "OTHER", "--rule", "block", "--router"], "judges samples of one model"),
        (["--mode", "vanilla", "--drafter", "OTHER", "--rule", "optimal_transport"], "12 are the limit"),
        (["--mode", "vanilla", "--drafter", "STRANGER"], "has another tokenizer than"),
    ],
)
def test_what_means_nothing_is_refused(
    folder: Path,
    other: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    names = {"OTHER": other, "STRANGER": tmp_path / "stranger"}
    if "STRANGER" in arguments:
        write_checkpoint(tmp_path / "stranger", "llama", num_hidden_layers=1)
        path = tmp_path / "stranger" / "tokenizer.json"
        path.write_text(path.read_text().replace("<|im_end|>", "<|im_stop|>"))
        path = tmp_path / "stranger" / "tokenizer_config.json"
        path.write_text(path.read_text().replace("<|im_end|>", "<|im_stop|>"))
    given = [str(names.get(argument, argument)) for argument in arguments]
    assert main(["--target", str(folder), "--prompts", str(prompts), "--temperature", "0.5", *given]) == 2
    assert words in capsys.readouterr().err


def test_a_model_that_says_nothing_finite_is_an_error_and_no_endless_run(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write_checkpoint(tmp_path / "broken", "llama", num_hidden_layers=1, std=float("nan"))
    assert main(["--target", str(broken), "--prompts", str(prompts)]) == 2
    assert "logits are not finite" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["3", "x=1", "1=0", "-1=5", "1=1.5"])
def test_a_layer_to_prune_after_is_written_in_one_way(
    folder: Path, prompts: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    with pytest.raises(SystemExit):
        main(["--target", str(folder), "--prompts", str(prompts), f"--prune={text}"])
    assert f"'{text}' is not LAYER=K" in capsys.readouterr().err


def test_pruning_on_two_ranks_is_refused(folder: Path, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--target", str(folder), "--prompts", str(prompts), "--mode", "tree", "--drafter", "stand"]
    assert main([*common, "--prune", "0=8", "--tp", "2"]) == 2
    assert "the engine has 2" in capsys.readouterr().err


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
