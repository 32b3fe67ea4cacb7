"""What a model is: the architecture and sizes that a checkpoint's `config.json` states, checked as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from contracts.errors import CheckpointError
from engine.json_fields import Fields, read_json_object, shown
from engine.rope_config import RopeConfig, read_rope, rope_inverse_frequencies

__all__ = ["ARCHITECTURES", "Architecture", "DType", "ModelConfig", "RopeConfig", "rope_inverse_frequencies"]

Architecture = Literal["llama", "mistral", "qwen2", "qwen3"]
DType = Literal["float32", "bfloat16", "float16"]

# model_type of config.json and the class it must have been saved from: other heads on the same body have no lm_head.
ARCHITECTURES: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# No known model is deeper than a few hundred layers; a wrong number must not make us plan millions.
MAX_LAYERS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """One decoder-only model. Field by field what its forward pass needs, whichever family it comes from."""

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    rms_eps: float
    tie_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    qk_norm: bool  # an RMS norm over each head's queries and keys, before rope
    sliding_window: tuple[int | None, ...]  # per layer: how many positions a row sees, itself included; None: all
    max_context: int
    rope: RopeConfig
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    dtype: DType  # what the config says the weights are stored in; float32 if it says nothing

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @staticmethod
    def load(folder: Path) -> ModelConfig:
        """Read `config.json`, and `generation_config.json` where there is one, of a checkpoint folder."""
        generation_path = folder / "generation_config.json"
        generation = read_json_object(generation_path) if generation_path.is_file() else {}
        return ModelConfig.parse(
            read_json_object(folder / "config.json"), generation, where=str(folder / "config.json")
        )

    @staticmethod
    def parse(
        values: Mapping[str, Any], generation_values: Mapping[str, Any] | None = None, *, where: str = "config.json"
    ) -> ModelConfig:
        """Check the contents of a `config.json` and give them this project's names."""
        config = Fields(values, where)
        architecture = _read_architecture(config, where)
        _refuse_unsupported(config)

        hidden_size = config.integer("hidden_size")
        num_layers = config.integer("num_hidden_layers", most=MAX_LAYERS)
        num_heads = config.integer("num_attention_heads")
        num_kv_heads = config.integer("num_key_value_heads", num_heads)
        if num_heads % num_kv_heads:
            raise config.refuse("num_key_value_heads", f"a divisor of num_attention_heads, which is {num_heads}")
        max_position = config.integer("max_position_embeddings")
        rope = read_rope(config, where, max_context=max_position)
        attention_bias = architecture in ("llama", "qwen3") and config.flag("attention_bias", False)
        generation = Fields(generation_values or {}, where.replace("config.json", "generation_config.json"))
        bos_token_ids = generation.token_ids("bos_token_id") or config.token_ids("bos_token_id")
        return ModelConfig(
            architecture=architecture,
            vocab_size=config.integer("vocab_size"),
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=_read_head_dim(config, architecture, hidden_size, num_heads),
            mlp_size=config.integer("intermediate_size"),
            rms_eps=config.number("rms_norm_eps", 1e-6),
            tie_embeddings=config.flag("tie_word_embeddings", False),
            qkv_bias=architecture == "qwen2" or attention_bias,
            o_bias=attention_bias,
            qk_norm=architecture == "qwen3",
            sliding_window=_read_windows(config, architecture, num_layers),
            max_context=_max_context(rope, max_position),
            rope=rope,
            eos_token_ids=generation.token_ids("eos_token_id") or config.token_ids("eos_token_id"),
            bos_token_id=bos_token_ids[0] if bos_token_ids else None,
            dtype=_read_dtype(config),
        )


def _read_architecture(config: Fields, where: str) -> Architecture:
    known = ", ".join(f"{name} ({saved_from})" for name, saved_from in ARCHITECTURES.items())
    if "model_type" not in config:
        raise CheckpointError(f"{where}: model_type is missing; known architectures: {known}")
    name = config.text("model_type")
    for architecture in get_args(Architecture):
        if name == architecture:
            break
    else:
        raise CheckpointError(f"{where}: unknown architecture {shown(name)}; known architectures: {known}")
    saved_from = config.texts("architectures")
    if saved_from and ARCHITECTURES[name] not in saved_from:
        raise config.refuse("architectures", f'["{ARCHITECTURES[name]}"] for model_type "{name}"')
    found: Architecture = architecture
    return found


def _refuse_unsupported(config: Fields) -> None:
    """Each of these would load and then compute something else than the model; better to say so at once."""
    if config.text("hidden_act", "silu") not in ("silu", "swish"):
        raise config.refuse("hidden_act", '"silu", the only activation supported')
    if config.flag("mlp_bias", False):
        raise config.refuse("mlp_bias", "false: MLP layers with a bias are not supported")
    if "quantization_config" in config:
        raise config.refuse("quantization_config", "absent: use the checkpoint in bfloat16, float16 or float32")


def _read_head_dim(config: Fields, architecture: Architecture, hidden_size: int, num_heads: int) -> int:
    if "head_dim" not in config:
        if architecture == "qwen3" and not config.names("head_dim"):
            return 128  # Qwen3's own default where a file leaves the key out
        if hidden_size % num_heads:
            raise config.refuse("hidden_size", f"a multiple of num_attention_heads, which is {num_heads}")
    head_dim = config.integer("head_dim", hidden_size // num_heads)
    if head_dim % 2:
        raise CheckpointError(f"head_dim is {head_dim}; it must be even, as rope rotates pairs of dimensions")
    return head_dim


def _read_windows(config: Fields, architecture: Architecture, num_layers: int) -> tuple[int | None, ...]:
    if architecture == "llama":
        return (None,) * num_layers
    is_windowed = architecture == "mistral" or config.flag("use_sliding_window", False)
    # 4096 is the families' default where a file leaves the key out; null means no window.
    default = None if config.names("sliding_window") else 4096
    has_window = is_windowed and (default is not None or "sliding_window" in config)
    window = config.integer("sliding_window", default) if has_window else None

    layer_types = config.texts("layer_types")
    if layer_types is None:
        first = 0 if architecture == "mistral" else config.integer("max_window_layers", 28, least=0)
        return tuple(window if layer >= first else None for layer in range(num_layers))
    if len(layer_types) != num_layers:
        raise config.refuse("layer_types", f"one entry for each of {num_layers} layers, not {len(layer_types)}")
    unknown = sorted(set(layer_types) - {"full_attention", "sliding_attention"})
    if unknown:
        raise config.refuse("layer_types", f"made of full_attention and sliding_attention, without {unknown}")
    if window is None and "sliding_attention" in layer_types:
        raise config.refuse("sliding_window", "set (with use_sliding_window true), as layer_types names sliding layers")
    windows = tuple(window if kind == "sliding_attention" else None for kind in layer_types)
    if architecture == "mistral" and set(windows) != {window}:
        raise config.refuse("layer_types", f"the same for all layers, as Mistral's sliding_window of {window} is")
    return windows


def _max_context(rope: RopeConfig, max_position: int) -> int:
    """Files differ in whether `max_position_embeddings` counts a yarn extension; the longer reading is the usable one.

    A linear factor is not multiplied in: files that count it already are as common as those that do not.
    """
    if rope.kind != "yarn":
        return max_position
    return max(max_position, int(rope.original_max_context * rope.factor))


def _read_dtype(config: Fields) -> DType:
    key = "dtype" if "dtype" in config else "torch_dtype"
    name = config.text(key, "float32").removeprefix("torch.")
    for dtype in get_args(DType):
        if name == dtype:
            found: DType = dtype
            return found
    raise config.refuse(key, f"one of {', '.join(get_args(DType))}")
