from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from contracts.errors import CheckpointError
from engine.model_config import ARCHITECTURES, ModelConfig, RopeConfig, rope_inverse_frequencies
from tests.engine.checkpoints import EOS_ID, FAMILIES, family_config

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
ROPES: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 3.7},
    LLAMA3,
    {
        **LLAMA3,
        "factor": 32.0,
        "low_freq_factor": 1.3,
        "high_freq_factor": 4.7,
        "original_max_position_embeddings": 512,
    },
    YARN,
    {**YARN, "truncate": False, "original_max_position_embeddings": 64},
    {**YARN, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0, "beta_fast": 16, "beta_slow": 2},
    {**YARN, "mscale": 0.707},
    {**YARN, "attention_factor": 1.5},
    {**YARN, "factor": 1.0},
]


def saved(family: str, **sizes: Any) -> dict[str, Any]:
    """The config.json that transformers writes."""
    values = json.loads(family_config(family, **sizes).to_json_string())
    values["architectures"] = [ARCHITECTURES[family]]
    return dict(values)


def altered(family: str = "llama", *, drop: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (saved(family) | changes).items() if key not in drop}


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: f"{rope['rope_type']}-{len(rope)}")
@pytest.mark.parametrize("theta", [10_000.0, 1_000_000.0])
@pytest.mark.parametrize("head_dim", [8, 64, 128])
def test_rope_frequencies_equal_transformers(rope: dict[str, Any], theta: float, head_dim: int) -> None:
    reference_config = family_config(
        "llama", rope={**rope, "rope_theta": theta}, hidden_size=4 * head_dim, max_position_embeddings=32768
    )
    assert isinstance(reference_config, transformers.LlamaConfig)
    reference = LlamaRotaryEmbedding(reference_config)
    config = ModelConfig.parse(json.loads(reference_config.to_json_string()))

    frequencies, attention_factor = rope_inverse_frequencies(config.rope, config.head_dim)

    expected = reference.inv_freq.numpy()
    assert frequencies.dtype == np.float32
    assert frequencies.shape == (head_dim // 2,)
    assert attention_factor == reference.attention_scaling
    # torch's vectorised power may miss the nearest float by one unit in the last place; nothing else may differ.
    assert (frequencies != expected).sum() <= 1
    np.testing.assert_array_max_ulp(frequencies, expected, maxulp=2)


def test_every_rope_parameter_changes_the_frequencies() -> None:
    llama3 = RopeConfig(kind="llama3", factor=8.0, original_max_context=512)
    yarn = RopeConfig(kind="yarn", factor=8.0, original_max_context=500)
    variants = [
        (llama3, {"low_freq_factor": 2.0}),
        (llama3, {"high_freq_factor": 8.0}),
        (llama3, {"original_max_context": 256}),
        (yarn, {"beta_fast": 8.0}),
        (yarn, {"beta_slow": 4.0}),
        (yarn, {"truncate": False}),
        (yarn, {"factor": 2.0}),
    ]
    for rope, change in variants:
        before, _ = rope_inverse_frequencies(rope, 64)
        after, _ = rope_inverse_frequencies(replace(rope, **change), 64)  # type: ignore[arg-type]
        assert (before != after).any(), change


@pytest.mark.parametrize("family", FAMILIES)
def test_reads_what_transformers_writes(family: str) -> None:
    config = ModelConfig.parse(saved(family, hidden_size=96, num_attention_heads=6, num_key_value_heads=2))
    assert config.architecture == family
    assert (config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim) == (96, 6, 2, 16)
    assert (config.q_size, config.kv_size) == (96, 32)
    assert (config.num_layers, config.mlp_size, config.vocab_size, config.max_context) == (3, 96, 320, 512)
    assert config.rms_eps == 1e-5
    assert config.qkv_bias == (family == "qwen2")
    assert not config.o_bias
    assert config.qk_norm == (family == "qwen3")
    assert config.sliding_window == (None, None, None)
    assert config.eos_token_ids == (EOS_ID,)
    assert config.bos_token_id == 0


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: f"{rope['rope_type']}-{len(rope)}")
def test_old_and_new_spelling_mean_the_same(rope: dict[str, Any]) -> None:
    new = altered(rope_parameters={**rope, "rope_theta": 5e5}, dtype="bfloat16")
    scaling = {("type" if key == "rope_type" else key): value for key, value in rope.items()}
    old = altered(drop=("rope_parameters", "dtype"), rope_theta=5e5, rope_scaling=scaling, torch_dtype="bfloat16")
    assert ModelConfig.parse(old) == ModelConfig.parse(new)
    assert ModelConfig.parse(old).dtype == "bfloat16"
    assert ModelConfig.parse(old).rope.theta == 5e5


def test_null_rope_scaling_is_no_scaling() -> None:
    values = altered(drop=("rope_parameters",), rope_theta=5e5, rope_scaling=None)
    assert ModelConfig.parse(values).rope == RopeConfig(theta=5e5)


def test_biases_follow_the_family() -> None:
    for family in ("llama", "qwen3"):
        config = ModelConfig.parse(saved(family, attention_bias=True))
        assert config.qkv_bias
        assert config.o_bias


def test_qwen3_head_dim_default_and_null() -> None:
    assert ModelConfig.parse(altered("qwen3", drop=("head_dim",))).head_dim == transformers.Qwen3Config().head_dim
    assert ModelConfig.parse(altered("llama", head_dim=None)).head_dim == 16


def test_sliding_windows_per_layer() -> None:
    mistral = ModelConfig.parse(saved("mistral", sliding_window=7))
    assert mistral.sliding_window == (7, 7, 7)
    for family in ("qwen2", "qwen3"):
        written = saved(family, sliding_window=7)
        assert ModelConfig.parse(written).sliding_window == (None, 7, 7)
        # Files from before layer_types state only where the windows begin.
        old = {key: value for key, value in written.items() if key != "layer_types"}
        assert ModelConfig.parse(old | {"max_window_layers": 2}).sliding_window == (None, None, 7)
        off = ModelConfig.parse(old | {"use_sliding_window": False})
        assert off.sliding_window == (None, None, None)
        mixed = saved(family, sliding_window=7, layer_types=["sliding_attention", "full_attention", "full_attention"])
        assert ModelConfig.parse(mixed).sliding_window == (7, None, None)
    assert ModelConfig.parse(altered("mistral", sliding_window=None)).sliding_window == (None, None, None)
    absent = ModelConfig.parse(altered("mistral", drop=("sliding_window",)))
    assert absent.sliding_window == (transformers.MistralConfig().sliding_window,) * 3


def test_yarn_extends_the_context_whether_or_not_the_file_counts_it() -> None:
    for max_position in (4096, 16384):
        config = ModelConfig.parse(altered(rope_parameters=YARN, max_position_embeddings=max_position))
        assert config.max_context == 16384


def test_generation_config_overrides_stop_tokens() -> None:
    values = altered(eos_token_id=3)
    assert ModelConfig.parse(values).eos_token_ids == (3,)
    assert ModelConfig.parse(values, {"eos_token_id": [5, 3, 5]}).eos_token_ids == (5, 3)
    assert ModelConfig.parse(values, {"eos_token_id": None}).eos_token_ids == (3,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (altered(model_type="gpt2"), 'unknown architecture "gpt2"; known architectures: llama .*mistral.*qwen2.*qwen3'),
        (altered(drop=("model_type",)), "model_type is missing; known architectures: llama"),
        (altered(architectures=["LlamaForSequenceClassification"]), "LlamaForSequenceClassification.*LlamaForCausalLM"),
        (altered(hidden_act="gelu"), 'hidden_act is "gelu".*silu'),
        (altered(mlp_bias=True), "mlp_bias is true.*false"),
        (altered(quantization_config={"quant_method": "gptq"}), "quantization_config.*gptq"),
        (altered(rope_parameters={"rope_type": "dynamic", "factor": 2.0}), '"dynamic".*default, linear, llama3, yarn'),
        (altered(rope_parameters={"rope_type": "longrope"}), '"longrope".*not supported'),
        (altered(rope_parameters={"rope_type": "linear"}), "factor is missing"),
        (altered(rope_parameters={"rope_type": "linear", "factor": 0}), "factor is 0.*above 0"),
        (altered(rope_parameters={**YARN, "factor": 1e12}), "rope_parameters: factor is 1000000000000.*at most 524288"),
        (altered(rope_parameters={**LLAMA3, "high_freq_factor": 1.0}), "high_freq_factor is 1.0.*low_freq_factor"),
        (altered(rope_parameters={"full_attention": {"rope_type": "default"}}), "one set of parameters for all layers"),
        (altered(rope_parameters={"partial_rotary_factor": 0.5}), "fully rotated heads"),
        (altered(drop=("hidden_size",)), "hidden_size is missing.*integer"),
        (altered(num_hidden_layers="3"), 'num_hidden_layers is "3".*integer'),
        (altered(num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
        (altered(vocab_size=True), "vocab_size is true"),
        (altered(vocab_size=-1), "vocab_size is -1"),
        (altered(num_key_value_heads=3), "num_key_value_heads is 3.*divisor of num_attention_heads, which is 4"),
        (altered(head_dim=15), "head_dim is 15.*even"),
        (altered(head_dim=None, hidden_size=66), "hidden_size is 66.*multiple"),
        (altered(rms_norm_eps=float("nan")), "rms_norm_eps"),
        (altered(dtype="int8"), 'dtype is "int8".*float32, bfloat16, float16'),
        (altered(eos_token_id="x"), "eos_token_id"),
        (altered("qwen2", layer_types=["full_attention"]), "layer_types.*3 layers, not 1"),
        (altered("qwen2", layer_types=["full_attention", "linear_attention", "full_attention"]), "linear_attention"),
        (altered("qwen2", layer_types=["sliding_attention"] * 3), "sliding_window is missing"),
        (altered("mistral", sliding_window=8, layer_types=["full_attention"] * 3), "layer_types.*Mistral"),
    ],
)
def test_refusals_name_key_value_and_remedy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.parse(values)


def test_load_reads_both_files_and_names_the_broken_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        ModelConfig.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(saved("qwen3")))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [9]}')
    assert ModelConfig.load(tmp_path).eos_token_ids == (9,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [')
    with pytest.raises(CheckpointError, match=r"generation_config\.json is not valid JSON"):
        ModelConfig.load(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        ModelConfig.load(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json holds a JSON list"):
        ModelConfig.load(tmp_path)
