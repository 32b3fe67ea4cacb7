"""Traces: what is written is read again, and a replay commits the target's own tokens whatever is checked."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.policies.stream import fleet_of
from benchmarks.record_traces import main
from benchmarks.traces.replay import Replay, play_chain
from benchmarks.traces.trace import Trace, read_trace, write_trace
from contracts.errors import InvalidArgument
from tests.engine.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Two random models that share a tokenizer, and a drafter without a model."""
    folder = tmp_path_factory.mktemp("models")
    target = write_checkpoint(folder / "target", "llama")
    drafter = write_checkpoint(folder / "small", "llama", num_hidden_layers=1, seed=1)
    prompts = folder / "prompts.jsonl"
    texts = {"cats": "the cat sat on the mat", "numbers": "one two three one two three one two"}
    prompts.write_text("".join(json.dumps({"domain": d, "prompt": text}) + "\n" for d, text in texts.items()))
    out = folder / "trace.npz"
    arguments = ["--target", str(target), "--prompts", str(prompts), "--out", str(out), "--max-tokens", "8"]
    drafters = ["--drafter", str(target), "--drafter", str(drafter), "--drafter", "prompt_lookup"]
    assert main([*arguments, *drafters, "--nodes", "6", "--depth", "4"]) == 0
    return read_trace(out)


def test_the_recorder_writes_what_the_models_say(recorded: Trace) -> None:
    assert recorded.drafters == ("target", "small", "prompt_lookup")
    assert [(r.domain, r.temperature) for r in recorded.requests] == [
        ("cats", 0.0), ("numbers", 0.0), ("cats", 0.8), ("numbers", 0.8),
    ]  # fmt: skip
    assert len({request.seed for request in recorded.requests}) == 4
    for request in recorded.requests:
        # A drafter that is the target itself is right everywhere: prompt, seed and positions are those of the target.
        assert all(recorded.matches(request, recorded.drafters[0]))
        for index in range(len(request.answer)):
            tree = recorded.tree(request, index, recorded.drafters[1])
            assert len(tree) <= 6
            assert all(node.parent < place for place, node in enumerate(tree))
    assert {None, *recorded.drafters} == set(recorded.step_reports)
    assert all(report.elapsed_s > 0.0 for reports in recorded.step_reports.values() for report in reports)


def test_what_is_written_is_read_again(recorded: Trace, tmp_path: Path) -> None:
    write_trace(tmp_path / "again.npz", recorded)
    again = read_trace(tmp_path / "again.npz")
    assert (again.drafters, again.requests, again.notes) == (recorded.drafters, recorded.requests, recorded.notes)
    assert again.step_reports == recorded.step_reports
    for name in ("tokens", "parents", "levels"):
        assert np.array_equal(getattr(again.trees, name), getattr(recorded.trees, name))


@pytest.mark.parametrize("seed", range(4))
def test_a_replay_commits_the_targets_own_tokens_whatever_is_checked(recorded: Trace, seed: int) -> None:
    rng = random.Random(seed)
    for request in recorded.requests:
        replay = Replay(recorded, request, fleet_of(recorded), "r")
        committed = 0
        while replay.num_left:
            replay.propose(rng.sample(recorded.drafters, rng.randint(0, 3)))
            committed += replay.verify([node.id for node in replay.nodes()[: rng.randint(0, 8)]])
        assert committed == len(request.answer)
        assert replay.drafting.tree.next_position == len(request.prompt) + len(request.answer)


def test_a_perfect_drafter_needs_few_rounds(recorded: Trace) -> None:
    request, target = recorded.requests[0], recorded.drafters[0]
    replay, num_rounds = Replay(recorded, request, fleet_of(recorded), "r"), 0
    while replay.num_left:
        replay.propose([target])
        replay.verify([node.id for node in replay.nodes()])
        num_rounds += 1
    assert num_rounds < len(request.answer) // 2
    assert sum(tokens for _, tokens in play_chain(recorded.matches(request, target), 4)) == len(request.answer)


def test_places_that_were_not_recorded_are_refused(recorded: Trace, tmp_path: Path) -> None:
    request = recorded.requests[0]
    with pytest.raises(InvalidArgument, match="place 8 of an answer of 8 tokens"):
        recorded.tree(request, 8, recorded.drafters[0])
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises(InvalidArgument, match="is no trace"):
        read_trace(tmp_path / "junk.npz")
