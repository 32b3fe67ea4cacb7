"""The whole recipe on a tiny corpus: it goes on where it stopped, and fails with a clear word."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contracts.errors import CheckpointError, InvalidArgument
from models.before import FamilyBefore
from models.build import STAGES, main, run_stage, sole_user
from models.card import figure_on_card, figures_on_card
from models.checkpoint import load_newest, load_state, state_files
from models.corpus import DOMAINS, records
from models.evaluate import drafter_folders
from models.hf_folder import load_network
from models.python_domain import module_split
from models.recipe import Recipe, Unfinished
from tests.models.tiny_family import tiny_recipe, write_corpus


@pytest.fixture(scope="module")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with tokenizer and tokens, to be copied."""
    work = tmp_path_factory.mktemp("prepared")
    tiny_recipe(corpus, work).prepare()
    return work


@pytest.fixture
def recipe(corpus: Path, prepared: Path, tmp_path: Path) -> Recipe:
    """A recipe whose corpus is prepared, in a folder of its own."""
    shutil.copytree(prepared, tmp_path / "work")
    return tiny_recipe(corpus, tmp_path / "work")


@pytest.fixture(scope="module")
def built(corpus: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    work = tmp_path_factory.mktemp("family") / "work"
    shutil.copytree(prepared, work)
    recipe = tiny_recipe(corpus, work)
    for stage in STAGES:
        run_stage(recipe, stage)
    return recipe


def test_it_makes_every_member(built: Recipe) -> None:
    assert load_network(built.out / "target").shape == built.plan.target_shape
    assert list(drafter_folders(built.out)) == ["general", "sql"]
    for folder in drafter_folders(built.out).values():
        assert load_network(folder).shape == built.plan.drafter_shape
        card = (folder / "README.md").read_text()
        assert "BSD-3-Clause" in card
        assert f"{built.plan.drafter_shape.num_parameters:,}" in card


def test_evaluation_names_every_member_and_domain(built: Recipe) -> None:
    figures = json.loads((built.work / "evaluation.json").read_text())
    assert set(figures["perplexity"]) == {"target", "general", "sql"}
    assert set(figures["committed_per_round"]) == {"0", "0.8"}
    for temperature in ("0", "0.8"):
        assert set(figures["committed_per_round"][temperature]) == {"general", "sql"}
        for row in figures["committed_per_round"][temperature].values():
            assert set(row) == set(DOMAINS)
            assert all(1 <= value <= 9 for value in row.values())
        assert "<svg" in (built.work / f"acceptance-{temperature}.svg").read_text()


def test_a_second_run_trains_nothing(built: Recipe) -> None:
    lines: list[str] = []
    again = Recipe(
        plan=built.plan,
        corpus=built.corpus,
        work=built.work,
        out=built.out,
        log=lines.append,
        budget_s=0,
        compiled=False,
    )
    for stage in STAGES[:-1]:
        run_stage(again, stage)
    assert not any("loss" in line or "encoding" in line or "asking" in line for line in lines), lines


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    state = load_newest(run)
    assert state is not None
    network: dict[str, torch.Tensor] = state["network"]
    return network


def test_an_interrupted_run_ends_with_the_same_weights(built: Recipe, recipe: Recipe) -> None:
    """Stopped after every step, by a spent budget or by a request, it makes bit by bit what one run makes."""
    num_stops = 0
    for stage in ("target", "decay"):
        while True:
            recipe.budget_s = 0 if num_stops % 2 else 0.01  # no step at all, or about one
            try:
                run_stage(recipe, stage)
                break
            except Unfinished:
                num_stops += 1
                assert num_stops < 50, "no progress"
    assert num_stops > 1
    straight, stopped = weights_of(built.finished_target()), weights_of(recipe.finished_target())
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_a_killed_run_goes_on_from_its_checkpoint(recipe: Recipe) -> None:
    """SIGTERM in the middle: the process saves, says what to do, and the next one resumes."""
    script = (
        "import sys, time; from pathlib import Path; from dataclasses import replace; import torch\n"
        "from models.build import stop_at_signals; from models.recipe import Unfinished\n"
        "from tests.models.tiny_family import tiny_recipe, TINY_PLAN\n"
        "torch.set_num_threads(1)\n"
        "say = lambda line: print(line, flush=True)\n"
        "recipe = tiny_recipe(Path(sys.argv[1]), Path(sys.argv[2]), log=say)\n"
        "recipe.plan = replace(TINY_PLAN, target_stable_steps=10**6)\n"
        "stop_at_signals(recipe)\n"
        "try: recipe.target()\n"
        "except Unfinished as unfinished: sys.exit(str(unfinished))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(recipe.corpus), str(recipe.work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    guard = threading.Timer(60, process.kill)
    guard.start()
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 10 "):
            process.send_signal(signal.SIGTERM)
            break
    _, errors = process.communicate()
    guard.cancel()
    assert process.returncode == 1
    assert "all saved; give the same command again" in errors
    state = load_newest(recipe.work / "target")
    assert state is not None
    assert state["step"] >= 10
    assert not [path for path in (recipe.work / "target").iterdir() if path.name.startswith(".")], (
        "temporary files are left"
    )


def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(recipe: Recipe) -> None:
    loop = recipe.target_loop(recipe.work / "target")
    for _ in range(3):
        loop.train_step()
        loop.save()
    files = state_files(recipe.work / "target")
    assert [path.name for path in files] == ["step-00000002.state", "step-00000003.state"], "the last two are kept"
    content = bytearray(files[-1].read_bytes())
    content[len(content) // 2] ^= 1
    files[-1].write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"step-00000003.state is damaged.*delete it to fall back"):
        recipe.target()
    files[-1].unlink()
    recipe.target()
    assert load_state(state_files(recipe.work / "target")[-1])["step"] == recipe.plan.target_stable_steps


def test_a_full_disk_keeps_the_checkpoint_before(recipe: Recipe) -> None:
    """The limit on file sizes makes a real write fail half-way, as a full disk does."""
    loop = recipe.target_loop(recipe.work / "target")
    loop.train_step()
    loop.save()
    loop.train_step()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(CheckpointError, match=r"cannot write .*step-00000002.state.*free some space"):
            loop.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(path.name for path in (recipe.work / "target").iterdir()) == ["step-00000001.state"]
    state = load_newest(recipe.work / "target")
    assert state is not None
    assert state["step"] == 1


def test_stages_need_the_ones_before(recipe: Recipe) -> None:
    with pytest.raises(InvalidArgument, match="run the stage target first"):
        recipe.decay()
    with pytest.raises(InvalidArgument, match="run the stages target and decay first"):
        recipe.teacher()


def test_drafters_are_distilled_only_when_all_are_through_their_text(recipe: Recipe) -> None:
    recipe.target()
    recipe.decay()
    recipe.teacher()
    recipe.budget_s = 0
    with pytest.raises(Unfinished):
        recipe.drafters()
    with pytest.raises(InvalidArgument, match="no finished general, sql of the stage drafters"):
        recipe.distil()


def test_a_decay_begins_at_the_newest_checkpoint(recipe: Recipe) -> None:
    """One that was interrupted does not hide what the target learnt since."""
    recipe.target()
    recipe.budget_s = 0
    with pytest.raises(Unfinished):
        recipe.decay()
    recipe.budget_s = math.inf
    recipe.plan = replace(recipe.plan, target_stable_steps=recipe.plan.target_stable_steps + 2)
    recipe.target()
    recipe.decay()
    begun, finished = recipe.decay_runs()
    assert not recipe.is_finished(begun)
    assert recipe.finished_target() == finished
    assert load_state(state_files(finished)[-1])["decay_start"] == recipe.plan.target_stable_steps


def test_what_was_begun_is_not_changed_half_way(recipe: Recipe) -> None:
    recipe.target()
    recipe.budget_s = 0
    with pytest.raises(Unfinished):
        recipe.decay()
    plan, recipe.budget_s = recipe.plan, math.inf
    recipe.plan = replace(plan, target_decay_steps=99)
    with pytest.raises(InvalidArgument, match=f"over {plan.target_decay_steps} steps, and --decay-steps is 99 now"):
        recipe.decay()
    recipe.plan = replace(plan, target_training=replace(plan.target_training, lr=1.0))
    with pytest.raises(CheckpointError, match=r"trained with lr 0.005, and this run has 1.0"):
        recipe.decay()
    recipe.plan = replace(plan, target_training=replace(plan.target_training, micro_rows=1))
    recipe.decay()


def test_specialists_read_on_where_the_general_drafter_stopped(built: Recipe) -> None:
    general, sql = (load_newest(built.text_run(name)) for name in ("general", "sql"))
    assert general is not None
    assert sql is not None
    training = built.plan.drafter_training
    assert sql["sampler"]["sql"] == general["sampler"]["sql"] + built.plan.specialist_steps * training.rows


@pytest.fixture
def further(built: Recipe, recipe: Recipe) -> Recipe:
    """A recipe in a work folder of its own that goes on from the family that another one exported."""
    recipe.before = FamilyBefore(built.out)
    return recipe


def test_it_goes_on_from_an_exported_family(built: Recipe, further: Recipe) -> None:
    (further.work / "tokenizer.json").unlink()
    lines: list[str] = []
    further.log = lines.append
    for stage in STAGES[:-1]:
        run_stage(further, stage)
    assert not any("shallow" in line or "text:" in line for line in lines), lines
    assert (further.out / "target/tokenizer.json").read_bytes() == (built.out / "target/tokenizer.json").read_bytes()
    moved = (
        load_network(further.out / "target").embed_tokens.weight
        - load_network(built.out / "target").embed_tokens.weight
    )
    assert 0 < moved.norm() < load_network(built.out / "target").embed_tokens.weight.norm()
    for name, row in (("target", "tokens seen"), ("drafter-sql", "text")):
        before = figure_on_card(built.out / name, row)
        assert before in figure_on_card(further.out / name, row)
    again = load_state(state_files(further.finished_target())[-1])
    assert again["conditions"]["seed"] != further.plan.target_training.seed  # another order of the text


def test_drafters_go_on_for_a_target_that_stays_as_it_is(built: Recipe, further: Recipe) -> None:
    further.plan = replace(further.plan, target_stable_steps=0, target_decay_steps=0)
    for stage in STAGES[:-1]:
        run_stage(further, stage)
    for path in (built.out / "target").iterdir():
        assert (further.out / "target" / path.name).read_bytes() == path.read_bytes()
    before = figure_on_card(built.out / "drafter-sql", "distillation")
    assert figure_on_card(further.out / "drafter-sql", "distillation before, for the same target") == before
    weights = [load_network(out / "drafter-sql").embed_tokens.weight for out in (built.out, further.out)]
    assert not torch.equal(*weights)
    for before_it in (FamilyBefore(further.out), None):  # what was copied or left out is another family all the same
        other = replace(further, before=before_it)
        with pytest.raises(InvalidArgument, match="give --go-on-from with that family as it was"):
            run_stage(other, "distil")


def test_the_card_says_of_every_distillation_for_which_target_it_was(tmp_path: Path) -> None:
    def card(number: int, earlier: dict[str, str]) -> FamilyBefore:
        folder = tmp_path / str(number)
        folder.joinpath("drafter-x").mkdir(parents=True)
        rows = {"distillation": f"D{number}", **earlier}
        folder.joinpath("drafter-x/README.md").write_text("".join(f"| {key} | {rows[key]} |\n" for key in rows))
        return FamilyBefore(folder)

    family = card(0, {})
    for number, is_kept in enumerate((True, True, False, True, False), start=1):
        family = card(number, family.distilled("drafter-x", for_same_target=is_kept))
    assert figures_on_card(family.folder / "drafter-x") == {
        "distillation": "D5",
        "distillation before, for earlier states of the target": "D4; before that D3; before that D2; before that D1; "
        "before that D0",
    }
    kept = card(6, family.distilled("drafter-x", for_same_target=True))
    assert figure_on_card(kept.folder / "drafter-x", "distillation before, for the same target") == "D5"


def test_a_target_that_was_trained_further_is_not_kept(further: Recipe) -> None:
    run_stage(further, "prepare")
    run_stage(further, "target")
    further.plan = replace(further.plan, target_stable_steps=0, target_decay_steps=0)
    with pytest.raises(InvalidArgument, match="--target-steps 0 keeps the one before"):
        run_stage(further, "decay")


def test_without_a_family_before_there_is_no_target_to_keep(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--target-steps is 0; it must be 1 or more"):
        main(["--corpus", str(corpus), "--out", str(tmp_path / "out"), "--target-steps", "0"])


def test_a_family_that_goes_on_from_one_that_did_reads_in_a_third_order(built: Recipe, further: Recipe) -> None:
    for stage in STAGES[:-1]:
        run_stage(further, stage)
    assert FamilyBefore(built.out).generation == 1
    assert FamilyBefore(further.out).generation == 2


def test_a_family_that_cannot_be_gone_on_from_is_named_at_once(built: Recipe, further: Recipe, tmp_path: Path) -> None:
    plan = further.plan
    further.plan = replace(plan, drafter_shape=replace(plan.drafter_shape, mlp_size=128))
    with pytest.raises(InvalidArgument, match=r"drafter-general has shape .* only a family of the same shapes"):
        run_stage(further, "prepare")
    further.plan = plan
    shutil.copytree(built.out, tmp_path / "bare")
    (tmp_path / "bare/drafter-sql/README.md").unlink()
    further.before = FamilyBefore(tmp_path / "bare")
    with pytest.raises(CheckpointError, match=r"drafter-sql/README\.md"):
        run_stage(further, "prepare")
    further.before = FamilyBefore(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere"):
        run_stage(further, "prepare")
    further.before = FamilyBefore(built.out)
    own = further.work / "tokenizer.json"
    own.write_text(own.read_text().replace("true", "false"))
    with pytest.raises(InvalidArgument, match="is not the tokenizer of"):
        run_stage(further, "target")


def test_a_work_folder_goes_on_from_one_family_in_all_its_stages(built: Recipe, further: Recipe) -> None:
    run_stage(further, "prepare")
    began_with, further.before = further.before, None
    for stage in STAGES:
        with pytest.raises(InvalidArgument, match="give --go-on-from with that family as it was"):
            run_stage(further, stage)
    further.before = began_with
    run_stage(further, "target")
    built.before = began_with
    try:
        with pytest.raises(InvalidArgument, match="was begun without --go-on-from"):
            run_stage(built, "target")
    finally:
        built.before = None


def test_a_family_is_not_exported_over_the_one_it_goes_on_from(built: Recipe, corpus: Path) -> None:
    with pytest.raises(SystemExit, match="export beside it"):
        main(["--corpus", str(corpus), "--out", str(built.out), "--go-on-from", f"{built.out}/../{built.out.name}"])


def test_a_request_to_stop_in_the_last_step_of_a_run_is_heard(recipe: Recipe) -> None:
    def stop(line: str) -> None:
        if "at step" in line:
            recipe.stop()

    recipe.log = stop
    recipe.plan = replace(recipe.plan, target_shallow_steps=1)
    with pytest.raises(Unfinished, match="target, shallow stopped at step"):
        recipe.target()
    assert not state_files(recipe.work / "target")


def test_wrong_corpus_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is not a folder"):
        tiny_recipe(tmp_path / "nowhere", tmp_path).prepare()
    with pytest.raises(InvalidArgument, match=r"lacks .*sql.*train.jsonl.gz"):
        tiny_recipe(tmp_path, tmp_path).prepare()
    corpus = write_corpus(tmp_path / "corpus", count=20)
    (corpus / "sql" / "train.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(InvalidArgument, match=r"sql.train.jsonl.gz cannot be read as gzip"):
        tiny_recipe(corpus, tmp_path / "work").prepare()
    assert not (tmp_path / "work" / "tokenizer.json").exists()


def test_two_processes_do_not_share_a_stage(tmp_path: Path) -> None:
    with sole_user(tmp_path, "target"):
        code = (
            "import sys; from pathlib import Path; from models.build import sole_user\n"
            "with sole_user(Path(sys.argv[1]), 'target'): pass"
        )
        found = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    assert f"process {os.getpid()} is at stage target" in found.stderr


def test_test_records_and_held_out_modules_are_never_learnt(corpus: Path) -> None:
    for domain in DOMAINS:
        splits = {
            split: {record.key for record in records(corpus, domain, split)} for split in ("train", "valid", "test")
        }
        assert all(splits.values()), domain
        if domain == "python":
            continue  # two modules may hold the same small function; the split is by module
        assert not splits["train"] & splits["test"]
        assert not splits["train"] & splits["valid"]
    assert {module_split(f"module{number}.py") for number in range(300)} == {"train", "valid", "test"}
