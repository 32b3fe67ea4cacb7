"""Whole steps filled up to fixed shapes and replayed, with a capture that runs the same kernels again.

What a graph does is stood in for by calling the function again over the same places, in Triton's interpreter; whether
CUDA captures it can be seen on a GPU alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from contracts.types import SamplingParams, SequenceId
from engine.captured import Capture, CapturedSteps, capture_graph, shape_of
from engine.checks import Limits
from engine.engine import Engine
from engine.ranks import SingleRank
from engine.streams import plain_stream
from engine.warm_up import common_steps, made_up_step, warm_up
from engine.work import StepResult, Verify
from kernels.paged import BLOCK_TOKENS, Rows
from kernels.scratch import scratch_bytes
from kernels.tiles import rows_per_tile
from tests.engine.checkpoints import write_checkpoint
from tests.engine.rig import Model, step_with_logits
from tests.engine.test_gpu import SIZES, TREE
from tests.kernels.gpu.interpreter import interpreter
from tests.kernels.rig import same_bits
from tests.kernels.test_tiles import forest

A = SequenceId("a")


def again(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
    """Replays by running: reads what lies in the graph's places then, and writes where the first result lies."""
    found = run()
    return lambda: found.copy_(run()), found


def failing(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {**SIZES, "num_hidden_layers": 1}
    return write_checkpoint(tmp_path_factory.mktemp("captured"), "llama", dtype="bfloat16", head_dim=16, **sizes)


def engine_of(folder: Path, capture: Capture | None) -> Engine:
    model = Model.load(folder, "bfloat16")
    engine = model.engine(is_compiled=False, num_blocks=8, prefix_cache=False)
    if capture is not None:
        executor = engine.executor
        executor.compiled = CapturedSteps(executor.weights, SingleRank(), executor.cache, capture=capture)
    return engine


def decode(engine: Engine) -> list[tuple[StepResult, list[torch.Tensor]]]:
    """A prompt, and trees of three rows in one shape: seen, captured, replayed."""
    engine.open(A, [9, 8], SamplingParams())
    return [step_with_logits(engine, [Verify(sequence=A, nodes=nodes)]) for nodes in ((), *[TREE[:2]] * 3)]


def test_replayed_steps_have_the_bits_of_steps_kernel_by_kernel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.gpu.linear._TILE_OUTPUTS", 512)  # fewer programs: each takes milliseconds here
    with interpreter():
        plain, captured, failed = (engine_of(folder, capture) for capture in (None, again, failing))
        expected, found, fallen_back = decode(plain), decode(captured), decode(failed)
    for (result, logits), *others in zip(expected, found, fallen_back, strict=True):
        for other_result, other_logits in others:
            assert other_result.outcomes == result.outcomes
            assert all(same_bits(x, y) for x, y in zip(logits, other_logits, strict=True))
    steps = captured.executor.compiled
    assert isinstance(steps, CapturedSteps)
    assert steps.num_graphs == 1
    assert isinstance(failed.executor.compiled, CapturedSteps)
    assert failed.executor.compiled.num_graphs == 0
    # A prompt of two rows, then a tree: seen, captured, replayed. What failed to be captured will not be tried again.
    assert [result.report.is_typical for result, _ in found] == [False, False, False, True]
    assert [result.report.is_typical for result, _ in fallen_back] == [False, False, False, True]
    assert all(result.report.is_typical for result, _ in expected)


def run(steps: CapturedSteps, num_rows: int) -> torch.Tensor:
    with torch.inference_mode():
        return steps.run(*made_up_step(1, num_rows, 20))


def test_a_capture_that_fails_is_the_last_one_and_graphs_replay_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.gpu.linear._TILE_OUTPUTS", 512)
    num_captured, num_replayed = 0, 0

    def no_memory_for_the_second(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
        nonlocal num_captured
        num_captured += 1
        if num_captured > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        found = run()

        def replay() -> None:
            nonlocal num_replayed
            num_replayed += 1
            run()

        return replay, found

    with interpreter():
        steps = engine_of(folder, no_memory_for_the_second).executor.compiled
        assert isinstance(steps, CapturedSteps)
        for num_rows in (1, 1, 2, 2, 4, 4, 1):
            run(steps, num_rows)
    assert (steps.num_graphs, num_captured, num_replayed) == (1, 2, 2)


def test_all_graphs_leave_their_logits_in_one_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.gpu.linear._TILE_OUTPUTS", 512)
    with interpreter():
        steps = engine_of(folder, again).executor.compiled
        assert isinstance(steps, CapturedSteps)
        for num_rows in (1, 2):
            run(steps, num_rows)
        captured = [run(steps, num_rows) for num_rows in (1, 2)]
        replayed = [run(steps, num_rows) for num_rows in (1, 2)]
    assert steps.num_graphs == 2
    assert len({logits.data_ptr() for logits in (*captured, *replayed)}) == 1


def test_what_attention_takes_in_stretches_is_not_captured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How it is parted follows from the step's own rows, and a graph has fixed ones."""
    monkeypatch.setattr("kernels.gpu.linear._TILE_OUTPUTS", 512)
    with interpreter():
        steps = engine_of(folder, again).executor.compiled
        assert isinstance(steps, CapturedSteps)
        monkeypatch.setattr("engine.captured.SCRATCH_BYTES", scratch_bytes(2, 512, 2, 16))
        for num_rows in (2, 2, 4, 4):
            run(steps, num_rows)
            assert steps.is_typical == (num_rows == 4)
    assert steps.num_graphs == 1


def test_warmed_up_an_engine_captures_nothing_common_any_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says what one says that was not."""
    monkeypatch.setattr("kernels.gpu.linear._TILE_OUTPUTS", 512)
    monkeypatch.setattr("engine.warm_up._NUM_KEYS", (64,))
    monkeypatch.setattr("engine.warm_up._BATCHES", (2, 1))
    monkeypatch.setattr("engine.warm_up._TREES", (4,))
    b = SequenceId("b")
    with interpreter():
        warm, cold = engine_of(folder, again), engine_of(folder, None)
        warm_up(warm)
        steps = warm.executor.compiled
        assert isinstance(steps, CapturedSteps)
        assert steps.num_graphs == 3
        for each in (A, b):
            for engine in (warm, cold):
                engine.open(each, [9], SamplingParams(temperature=0.7, seed=4))
        for work in ([Verify(sequence=A)], [Verify(sequence=A, nodes=TREE[:2])], [Verify(sequence=x) for x in (A, b)]):
            found, expected = warm.step(work), cold.step(work)
            assert found.outcomes == expected.outcomes
            assert found.report.is_typical
    assert steps.num_graphs == 3


def test_common_steps_are_what_the_engine_may_be_asked_for() -> None:
    limits = Limits(vocab_size=9, num_real_tokens=9, max_context=1500, max_batch_rows=8)
    sizes = set()
    for tokens, rows, chosen in common_steps(limits):
        assert tokens.shape[0] == rows.count == chosen.shape[0] <= 8
        sizes.add(rows.tiles(rows_per_tile=8).longest)
        assert rows.slots_in_order(rows.count - 1).max() < BLOCK_TOKENS
    assert sizes == {512, 1024, 1500}


@pytest.mark.parametrize("count", [7, 8, 64])
def test_rows_are_filled_up_with_the_last(count: int) -> None:
    rows = forest(3, 2, 4)
    assert rows.count <= 7
    filled = rows.filled_up(count)
    assert filled.count == count
    last = rows.count - 1
    for row in range(count):
        same = min(row, last)
        assert filled.slots_in_order(row).tolist() == rows.slots_in_order(same).tolist()
        assert filled.positions[row] == rows.positions[same]
        assert filled.write_slots[row] == rows.write_slots[same]


def test_rows_are_not_filled_up_to_fewer() -> None:
    with pytest.raises(ValueError, match="rows cannot be filled up to 1"):
        forest(3, 3, 4).filled_up(1)


def test_shapes_are_few_and_large_enough() -> None:
    shapes = set()
    for seed in range(60):
        rows = forest(seed, 1 + seed % 3, 30)
        filled = rows.filled_up(1 << (rows.count - 1).bit_length())
        tiles = filled.tiles(rows_per_tile=rows_per_tile(4))
        shape = shape_of(filled, tiles, rows.count)
        assert shape.num_rows == filled.count
        assert shape.num_chosen >= rows.count
        assert shape.num_table_entries >= rows.num_table_entries
        assert shape.num_tiles >= tiles.count
        assert shape.longest >= tiles.longest
        assert all(size & (size - 1) == 0 for size in dataclasses.astuple(shape))
        shapes.add(shape)
    assert len(shapes) < 30


def test_how_long_texts_are_together_makes_no_other_shape() -> None:
    """Only the longest of them does."""
    shapes = set()
    for num_keys in ((700, 20, 20), (700, 700, 20), (700, 700, 900)):
        tables = [list(range(-(-keys // BLOCK_TOKENS))) for keys in num_keys]
        starts = torch.tensor([0, *map(len, tables)]).cumsum(0).tolist()
        rows = Rows.from_lists(
            positions=[keys - 1 for keys in num_keys],
            write_slots=[0] * 3,
            num_in_table=list(num_keys),
            table_offsets=starts[:-1],
            tables=[block for table in tables for block in table],
            tail_offsets=[0] * 4,
            tail_slots=[],
        ).filled_up(4)
        shapes.add(shape_of(rows, rows.tiles(rows_per_tile=8), 3))
    assert len(shapes) == 1


def test_nothing_is_captured_without_a_gpu(folder: Path) -> None:
    executor = engine_of(folder, None).executor
    assert CapturedSteps.build(executor.weights, executor.ranks, executor.cache) is None


def test_a_graph_is_captured_from_the_engines_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its streams its kernels keep priority and multiprocessors; and other threads may go on with theirs."""
    current, asked = object(), []

    @contextlib.contextmanager
    def graph(graph: object, **named: object) -> Iterator[None]:
        asked.append(named)
        yield

    monkeypatch.setattr("torch.cuda.current_stream", lambda: current)
    monkeypatch.setattr("torch.cuda.CUDAGraph", lambda: SimpleNamespace(replay=None))
    monkeypatch.setattr("torch.cuda.graph", graph)
    ran_under = []

    def run() -> torch.Tensor:
        ran_under.append(len(asked))
        return torch.zeros(1)

    pool = object()
    capture_graph(run, pool=pool)
    assert ran_under == [0, 1]
    assert asked == [{"pool": pool, "stream": current, "capture_error_mode": "thread_local"}]


def test_two_engines_of_a_process_capture_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    num_inside, seen, is_at_the_door, lock = 0, list[int](), threading.Event(), threading.Lock()

    @contextlib.contextmanager
    def graph(graph: object, **named: object) -> Iterator[None]:
        nonlocal num_inside
        num_inside += 1
        if num_inside > 1:
            is_at_the_door.set()  # and through it
        yield
        seen.append(num_inside)
        num_inside -= 1

    monkeypatch.setattr("torch.cuda.current_stream", lambda: None)
    monkeypatch.setattr("torch.cuda.CUDAGraph", lambda: SimpleNamespace(replay=None))
    monkeypatch.setattr("torch.cuda.graph", graph)

    class Door:
        """A lock, and whoever comes to it while another is inside is seen."""

        def __enter__(self) -> None:
            if num_inside:
                is_at_the_door.set()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    monkeypatch.setattr("engine.captured._CAPTURING", Door())

    def first() -> torch.Tensor:
        if num_inside:
            other.start()
            assert is_at_the_door.wait(60)
        return torch.zeros(1)

    other = threading.Thread(target=capture_graph, args=(lambda: torch.zeros(1),), kwargs={"pool": None})
    capture_graph(first, pool=None)
    other.join(60)
    assert seen == [1, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here that could capture")
def test_cuda_captures() -> None:
    source = torch.ones(4, device="cuda")
    opened = plain_stream("cuda", priority=-1)
    with torch.cuda.stream(opened.stream):
        replay, found = capture_graph(lambda: source * 2, pool=torch.cuda.graph_pool_handle())
        source.fill_(3.0)
        replay()
        assert found.tolist() == [6.0] * 4
