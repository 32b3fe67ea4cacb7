"""Inflation keeps the function, has the cost it says, and says what it is."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contracts.errors import CheckpointError, InvalidArgument
from models.family import DEMO
from models.hf_folder import load_network, read_tensors
from models.inflate import Inflation, check_tensors, inflate, inflated_shape, layer_origins, parse_size
from models.network import Network
from tests.models.tiny_family import TINY_SHAPE

PROMPT = torch.arange(5, 45)[None]  # [1, 40]


def logits_of(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_network(folder).logits(PROMPT)


def test_a_folder_with_other_things_in_it_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "family" / "target")
    with pytest.raises(InvalidArgument, match="in which the model itself is"):
        inflate(tmp_path / "family" / "target", tmp_path / "family", num_parameters=200_000)
    with pytest.raises(CheckpointError, match=r"family has files in it and no config.json"):
        inflate(folder, tmp_path / "family", num_parameters=200_000)
    assert load_network(tmp_path / "family" / "target").shape == TINY_SHAPE


@pytest.mark.parametrize("num_parameters", [200_000, 470_000, 3_000_000])
def test_the_function_is_preserved_in_float32(folder: Path, tmp_path: Path, num_parameters: int) -> None:
    big = inflate(folder, tmp_path / "big", num_parameters=num_parameters)
    small_logits, big_logits = logits_of(folder), logits_of(tmp_path / "big")
    assert big.num_parameters == pytest.approx(num_parameters, rel=0.1)
    assert (big_logits - small_logits).abs().max() < 2e-5 * small_logits.abs().max()
    assert torch.equal(big_logits.argmax(-1), small_logits.argmax(-1))


def test_the_function_is_exact_where_arithmetic_is(folder: Path, tmp_path: Path) -> None:
    """In float64 the difference shrinks to float64's rounding: nothing random reaches the output."""
    inflate(folder, tmp_path / "big", num_parameters=1_000_000)
    with torch.no_grad():
        small, big = (load_network(path).double().logits(PROMPT) for path in (folder, tmp_path / "big"))
    # Norms and rotations are computed in float32 by design, so this is float32 rounding of a few places, not of every
    # sum.
    assert (big - small).abs().max() < 1e-5 * small.abs().max()


def test_other_random_weights_give_the_same_function(folder: Path, tmp_path: Path) -> None:
    inflate(folder, tmp_path / "a", num_parameters=1_000_000, seed=1)
    inflate(folder, tmp_path / "b", num_parameters=1_000_000, seed=2)
    assert (logits_of(tmp_path / "a") - logits_of(tmp_path / "b")).abs().max() < 1e-3
    a, b = read_tensors(tmp_path / "a"), read_tensors(tmp_path / "b")
    assert not torch.equal(a["model.layers.0.self_attn.q_proj.weight"], b["model.layers.0.self_attn.q_proj.weight"])


@pytest.mark.parametrize("name", ["self_attn.v_proj", "mlp.up_proj"])
def test_a_random_weight_in_place_of_a_needed_zero_changes_the_answer(folder: Path, tmp_path: Path, name: str) -> None:
    """The zeros are needed: what they stop would reach the output. This is what makes the tests above able to fail."""
    inflate(folder, tmp_path / "big", num_parameters=1_000_000)
    network = load_network(tmp_path / "big")
    weight = dict(network.named_parameters())[f"layers.0.{name}.weight"]
    with torch.no_grad():
        weight[-1] = 0.2
        assert (network.logits(PROMPT) - logits_of(folder)).abs().max() > 1e-2


def test_zeros_stand_only_where_needed(folder: Path, tmp_path: Path) -> None:
    big = inflate(folder, tmp_path / "big", num_parameters=1_000_000)
    for name, tensor in read_tensors(tmp_path / "big").items():
        share = (tensor == 0).float().mean().item()
        if not name.endswith(("v_proj.weight", "up_proj.weight", "norm.weight", "layernorm.weight")):
            assert share < 0.01, f"{name} is {share:.0%} zeros"
    assert big.hidden_size > TINY_SHAPE.hidden_size
    assert big.num_layers > TINY_SHAPE.num_layers


@pytest.mark.parametrize(
    "num_parameters", [20_000_000, 50_000_000, 120_000_000, 300_000_000, 1_000_000_000, 8_000_000_000]
)
def test_shapes_hit_the_size_and_contain_the_target(num_parameters: int) -> None:
    shape = inflated_shape(DEMO.target_shape, num_parameters)
    assert shape.num_parameters == pytest.approx(num_parameters, rel=0.01)
    assert shape.hidden_size % DEMO.target_shape.hidden_size == 0
    assert shape.num_heads * DEMO.target_shape.num_kv_heads == shape.num_kv_heads * DEMO.target_shape.num_heads
    for field in ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "mlp_size"):
        assert getattr(shape, field) >= getattr(DEMO.target_shape, field)


def test_parameter_count_is_the_real_one() -> None:
    assert TINY_SHAPE.num_parameters == sum(p.numel() for p in Network(TINY_SHAPE).parameters())
    odd = replace(TINY_SHAPE, num_layers=3, mlp_size=80, num_kv_heads=4)
    assert odd.num_parameters == sum(p.numel() for p in Network(odd).parameters())


def test_layers_keep_their_order_and_are_all_there() -> None:
    for num_old, num_new in ((2, 2), (2, 5), (5, 24), (7, 8)):
        origins = layer_origins(num_old, num_new)
        assert [origin for origin in origins if origin is not None] == list(range(num_old))
        assert len(origins) == num_new


def test_config_and_card_say_what_it_is(folder: Path, tmp_path: Path) -> None:
    big = inflate(folder, tmp_path / "big", num_parameters=1_000_000)
    config = json.loads((tmp_path / "big" / "config.json").read_text())
    assert config["inflated"]["from"] == "tiny"
    assert config["inflated"]["num_parameters"] == TINY_SHAPE.num_parameters
    card = (tmp_path / "big" / "README.md").read_text()
    assert f"{big.num_parameters:,}" in card
    assert "not" in card


def test_sizes_are_read_as_people_write_them() -> None:
    assert [parse_size(text) for text in ("300M", "1.5b", "40000", "12K")] == [
        300_000_000,
        1_500_000_000,
        40_000,
        12_000,
    ]
    for text in ("", "big", "-3M", "3MB", "1e9"):
        with pytest.raises(InvalidArgument, match="300M"):
            parse_size(text)


def test_refusals_name_the_reason(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="fewer than"):
        inflate(folder, tmp_path / "big", num_parameters=10)
    with pytest.raises(InvalidArgument, match="in which the model itself is"):
        inflate(folder, folder, num_parameters=1_000_000)
    inflate(folder, tmp_path / "big", num_parameters=1_000_000)
    with pytest.raises(InvalidArgument, match="itself inflated"):
        inflate(tmp_path / "big", tmp_path / "bigger", num_parameters=2_000_000)


def test_a_missing_tensor_is_named(folder: Path, tmp_path: Path) -> None:
    tensors = read_tensors(folder)
    tensors.pop("model.norm.weight")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        check_tensors(folder, TINY_SHAPE, tensors)


def test_tensors_come_one_by_one(folder: Path) -> None:
    """A shard at a time is what keeps inflation to billions of parameters within a small memory."""
    big = inflated_shape(TINY_SHAPE, 1_000_000)
    stream = Inflation(TINY_SHAPE, big, read_tensors(folder), seed=0).run()
    name, tensor = next(stream)
    assert name == "model.embed_tokens.weight"
    assert tensor.shape == (big.vocab_size, big.hidden_size)
    assert math.prod(tensor.shape) + sum(t.numel() for _, t in stream) == big.num_parameters
