"""Tiny random Hugging Face checkpoints of every family, written by transformers itself, for tests to read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedConfig, PreTrainedModel

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

_CONFIG_CLASSES: Mapping[str, type[PreTrainedConfig]] = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}

_MODEL_CLASSES: Mapping[type[PreTrainedConfig], type[PreTrainedModel]] = {
    transformers.LlamaConfig: transformers.LlamaForCausalLM,
    transformers.MistralConfig: transformers.MistralForCausalLM,
    transformers.Qwen2Config: transformers.Qwen2ForCausalLM,
    transformers.Qwen3Config: transformers.Qwen3ForCausalLM,
}

DEFAULT_SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}

SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
BOS_ID, EOS_ID, PAD_ID, IM_START_ID, IM_END_ID = range(5)

# 256 byte symbols, the special tokens and a few dozen merges.
TOKENIZER_SIZE = 320

CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_TRAINING_TEXT = (
    "the target alone decides every token and the drafters only guess what it will say next",
    "def step(self, batch): return self.model.forward(batch.tokens, batch.positions)",
    "SELECT name, COUNT(*) FROM orders WHERE total > 100 GROUP BY name ORDER BY name;",
    "a fleet of small machines, each with its own speciality, proposes; one large machine disposes",
)


def write_checkpoint(
    folder: Path,
    family: str,
    *,
    dtype: str = "float32",
    tie: bool = False,
    sharded: bool = False,
    sliding_window: int | None = None,
    rope: Mapping[str, Any] | None = None,
    seed: int = 0,
    std: float = 0.2,
    **sizes: Any,
) -> Path:
    """Write a random model of the family with its tokenizer and return the folder.

    `rope` is merged into `rope_parameters`; `sizes` are keys of `config.json` (hidden_size, num_hidden_layers,
    head_dim, attention_bias, layer_types, ...). Weights are large enough that greedy tokens vary, and norms and
    biases are random too, so that leaving one out shows.
    """
    config = family_config(family, tie=tie, sliding_window=sliding_window, rope=rope, **sizes)
    model = random_model(config, seed=seed, std=std).to(getattr(torch, dtype))
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    model.save_pretrained(folder, max_shard_size=num_bytes // 3 if sharded else "5GB")
    write_tokenizer(folder)
    return folder


def family_config(
    family: str,
    *,
    tie: bool = False,
    sliding_window: int | None = None,
    rope: Mapping[str, Any] | None = None,
    **sizes: Any,
) -> PreTrainedConfig:
    values: dict[str, Any] = {**DEFAULT_SIZES, "vocab_size": TOKENIZER_SIZE, **sizes}
    values["tie_word_embeddings"] = tie
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": 10_000.0, **(rope or {})}
    values.update(bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID)
    if family == "mistral":
        values["sliding_window"] = sliding_window
    elif family.startswith("qwen"):
        values.update(use_sliding_window=sliding_window is not None, sliding_window=sliding_window)
        # By default the first layer sees everything and the others do not, so that both kinds are exercised.
        values.setdefault("max_window_layers", 1)
    elif sliding_window is not None:
        raise ValueError(f"the {family} family has no sliding window, got {sliding_window}")
    if family == "qwen3":
        values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
    return _CONFIG_CLASSES[family](**values)


def random_model(config: PreTrainedConfig, *, seed: int = 0, std: float = 0.2) -> PreTrainedModel:
    """A transformers model in evaluation mode whose every parameter is random and matters."""
    model: PreTrainedModel = _MODEL_CLASSES[type(config)](config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = name.endswith("norm.weight") or "layernorm" in name
            parameter.copy_(1.0 + 0.3 * noise if is_norm else std * noise)
    model.train(False)
    return model


def write_tokenizer(folder: Path) -> Path:
    """A byte-level BPE tokenizer of `TOKENIZER_SIZE` entries, special tokens first, with a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(_byte_level_json(), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
        "chat_template": CHATML_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return folder


@cache
def _byte_level_json() -> str:
    return byte_level_tokenizer().to_str(pretty=True)


def byte_level_tokenizer() -> Tokenizer:
    """BPE over bytes, as Llama 3 and Qwen have it: every byte is a token, so any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENIZER_SIZE,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TRAINING_TEXT, trainer)
    return tokenizer


def metaspace_tokenizer() -> Tokenizer:
    """BPE with byte fallback, as SentencePiece models (Llama 2, Mistral) have it after conversion."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    characters = sorted({character for text in _TRAINING_TEXT for character in text} | {"▁"} - {" "})
    merged = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("o", "r"), ("▁", "a"), ("e", "r")]
    vocabulary = [*pieces, *(c for c in characters if c != " "), *(left + right for left, right in merged)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(vocabulary)},
            merges=merged,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer
