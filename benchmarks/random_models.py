"""Models with random weights in the shapes that benchmarks use: real in cost, meaningless in content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tokenizers
import torch
import transformers

__all__ = ["SHAPES", "write_random_model"]

SHAPES: Mapping[str, Mapping[str, int]] = {
    "target-291m": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 2816,
        "vocab_size": 8192,
    },
    "drafter-3m": {
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 48,
        "intermediate_size": 512,
        "vocab_size": 8192,
    },
}


def write_random_model(folder: Path, shape: str, *, max_context: int = 2048, seed: int = 0) -> Path:
    """A Llama checkpoint in bfloat16 with tied embeddings, and a tokenizer that spells its whole vocabulary."""
    torch.manual_seed(seed)
    sizes = SHAPES[shape]
    config = transformers.LlamaConfig(
        **sizes,
        max_position_embeddings=max_context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    words = {f"w{index}": index for index in range(sizes["vocab_size"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
