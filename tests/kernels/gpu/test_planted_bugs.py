"""Every check of a kernel must fail on a wrong kernel: its source with one slip in it, run in the kernel's place."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.kernels.gpu import (
    test_attention,
    test_linear,
    test_noise,
    test_norm,
    test_paged,
    test_pick,
    test_pruning,
    test_quantised,
    test_rotary,
    test_swiglu,
)
from tests.kernels.scenes import Layout

ROOM = Path(__file__).resolve().parents[3] / "kernels" / "gpu"


@dataclass(frozen=True, slots=True)
class Slip:
    """One wrong line, and the check that has to notice."""

    stem: str
    right: str
    wrong: str
    check: Callable[[], None]
    users: tuple[str, ...] = ()
    """Modules that take the kernel from this one, and so have to be loaded again."""


def _attention() -> None:
    scene = test_attention.scene_of((1, 2, 16, 0), torch.float32, lengths=[50])
    with test_attention.small_blocks():
        test_attention.check(scene, Layout(group=[0, 1], tails=[3, 0], seed=1))


def _attention_window() -> None:
    scene = test_attention.scene_of((1, 2, 16, 7), torch.float32, lengths=[50])
    with test_attention.small_blocks():
        test_attention.check(scene, Layout(group=[0], tails=[0], seed=1))


def _attention_together() -> None:
    scene = test_attention.scene_of((1, 2, 16, 0), torch.float32, lengths=[2, 33, 70], rows=3)
    with test_attention.small_blocks():
        test_attention.check(scene, test_attention.SIDE_BY_SIDE)


def _rotary(*, wide: bool = False) -> None:
    test_rotary.check((4, 2, 20, True), torch.float32, wide=wide)


SLIPS = [
    Slip("attention", "* scale\n", "* scale * 1.01\n", _attention),
    Slip("attention", "cumsum(is_ancestor, axis=0) - 1", "cumsum(is_ancestor, axis=0)", _attention),
    Slip("attention", "tl.load(positions + row) // SPLIT + 1", "num_splits - 1", _attention),
    Slip("attention", "at > its_position - window", "at >= its_position - window", _attention_window),
    Slip("attention", "own_turn % num_rows)", "0)", _attention_together),
    Slip("attention", "(num_shared - start) // KEYS", "(num_shared - start) // KEYS + 1", _attention_together),
    Slip("norm", "mean_square + eps)", "mean_square)", lambda: test_norm.check(3, 77, torch.float32, 1e-3)),
    Slip(
        "norm",
        "held, other=0.0)\n        tl.store",
        "held, other=0.0) * 2\n        tl.store",
        lambda: test_norm.check(3, 7, torch.float32),
    ),
    Slip("rotary", "first * cosine - second * sine).to(keys", "first * cosine + second * sine).to(keys", _rotary),
    Slip("rotary", "scale * tl.load(query_norm + HALF", "scale * tl.load(query_norm", _rotary),
    Slip("rotary", "HALF + columns, KV_HEADS", "columns, KV_HEADS", _rotary),
    Slip("layout", "KEY_WIDTH + elements % KEY_WIDTH", "KEY_WIDTH", lambda: _rotary(wide=True), users=("rotary",)),
    Slip("layout", "BLOCK_TOKENS + slots % BLOCK_TOKENS) *", "BLOCK_TOKENS) *", _rotary, users=("rotary",)),
    Slip("swiglu", "tl.exp(-gate)", "tl.exp(gate)", lambda: test_swiglu.check(3, 77, torch.float32)),
    Slip(
        "paged",
        "((sources, False), (targets, True))",
        "((targets, False), (targets, True))",
        lambda: test_paged.check(torch.float32, 20, wide=True),
    ),
    Slip(
        "paged",
        "tl.store(value, tl.load(buffered + HEAD_DIM",
        "tl.store(value, tl.load(buffered",
        lambda: test_paged.check(torch.float32, 20, wide=True),
    ),
    Slip("linear", "start + inner)[:, None]", "inner)[:, None]", lambda: test_linear.check(3, 83, 37, torch.float32)),
    Slip("linear", "if ACCUMULATES:", "if False:", lambda: test_linear.check(3, 83, 37, torch.float32)),
    Slip(
        "linear",
        "tl.load(scales + outputs",
        "tl.load(scales + outputs * 0",
        lambda: test_quantised.check("int8", torch.float32),
        users=("quantised",),
    ),
    Slip("quantised", "weight, bias, y", "weight, None, y", lambda: test_quantised.check("fp8", torch.float32)),
    Slip("noise", "tl.interleave(c0, c2)", "tl.interleave(c2, c0)", lambda: test_noise.check_noise(1, 2, 0, 40)),
    Slip(
        "noise",
        "tl.load(numbers), tl.load(numbers + 1)",
        "tl.load(numbers + 1), tl.load(numbers)",
        lambda: test_noise.check_noise(1, 2, 0, 40),
    ),
    Slip("noise", "tl.load(words + places", "tl.load(words + 0 * places", test_noise.check_both_ends),
    Slip("noise", "near_one = above < 0.25", "near_one = above < 0.0", test_noise.check_both_ends),
    Slip("noise", "(shifted >> 23)", "(shifted >> 22)", test_noise.check_both_ends),
    Slip("noise", "tl.exp(found - shift)", "tl.exp(found)", lambda: test_noise.check_log_sums(4097)),
    Slip("noise", "p * z * square", "p * (z * square)", lambda: test_noise.check_noise(1, 2, 0, 4000)),
    Slip(
        "noise",
        "scaled >= threshold",
        "scaled > -threshold",
        lambda: test_noise.check_choose(size=7, first_token=2, num_top=3),
    ),
    Slip(
        "noise",
        "token_of, _NO_TOKEN), axis=0)",
        "token_of * 0 + 7, _NO_TOKEN), axis=0)",
        lambda: test_noise.check_choose(size=1030, first_token=3, num_top=4),
    ),
    Slip("noise", "tl.div_rn(found, factor)", "found * factor", test_pick.check, users=("pick",)),
    Slip("noise", "(tokens % 8)", "(columns % 8)", test_pick.check_masks, users=("pick",)),
    Slip("pick", 'kind="stable")', 'kind="stable")[::-1]', test_pick.check),
    Slip("pick", "trial, lanes) >= k", "trial, lanes) > k", lambda: test_pick.check_limits((5,))),
    Slip("pick", "enough = top_p *", "enough = 0.6 * top_p *", lambda: test_pick.check_limits((1,))),
    Slip("pick", "threshold = largest + log_min_p", "threshold = largest", lambda: test_pick.check_limits((3,))),
    Slip("pick", "size, other=_MINUS_INFINITY)", "size, other=0.0)", test_pick.check_thresholds),
    Slip("pick", "0x7FFFFFFF)).to(tl.int64)", "0)).to(tl.int64)", test_pick.check_thresholds),
    Slip("pick", "0x7FFFFFFF)).to(tl.float32", "0)).to(tl.float32", test_pick.check_thresholds),
    Slip("pick", "(_rank(found) >= least)", "(_rank(found) > least)", test_pick.check_thresholds),
    Slip("pick", "_rank(found) >= least,", "_rank(found) > least,", test_pick.check_thresholds),
    Slip("pick", "found * inverse_temperature, mask", "found, mask", test_pick.check_scaled_logits),
    Slip("pruning", "found > tl.load", "found >= tl.load", test_pruning.check_count),
    Slip(
        "pruning",
        "places < row, staying",
        "places <= row, staying",
        lambda: test_pruning.check_compact(9, 25, torch.float32),
    ),
]


def test_every_function_of_a_kernel_has_a_slip() -> None:
    """And every stem, those included whose launches are all that there is to be wrong."""
    stems = {path.stem for path in ROOM.glob("*.py")} - {"__init__"}
    assert {slip.stem for slip in SLIPS} == stems
    without = set()
    for stem in stems:
        source = (ROOM / f"{stem}.py").read_text()
        lines = [source[: source.index(slip.right)].count("\n") + 1 for slip in SLIPS if slip.stem == stem]
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(d) for d in node.decorator_list):
                assert node.end_lineno is not None
                if not any(node.lineno <= line <= node.end_lineno for line in lines):
                    without.add(f"{stem}.{node.name}")
    assert without == set()


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: f"{slip.stem}: {slip.wrong.strip()}")
def test_a_planted_bug_is_caught(slip: Slip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="no Triton for this machine, and so no kernel to plant a bug in")
    source = (ROOM / f"{slip.stem}.py").read_text()
    assert source.count(slip.right) == 1, f"{slip.right!r} is {source.count(slip.right)} times in {slip.stem}.py"
    replace_module(slip.stem, source.replace(slip.right, slip.wrong), tmp_path, monkeypatch)
    for user in slip.users:
        replace_module(user, (ROOM / f"{user}.py").read_text(), tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        slip.check()


def replace_module(stem: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here to the end of the test, whoever imports kernels.gpu.<stem> gets this source: Triton reads it too."""
    path = folder / f"{stem}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(f"kernels.gpu.{stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, f"kernels.gpu.{stem}", module)  # before it runs, as imports do
    spec.loader.exec_module(module)
