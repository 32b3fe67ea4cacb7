"""A checkpoint folder as a GGUF file, which llama.cpp and OpenVINO GenAI read.

    python -m benchmarks.peers.gguf_file --checkpoint models/demo/target --out target.gguf

The weights keep their type unless --dtype names another: what was bfloat16 comes back bit by bit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from contracts.errors import InvalidArgument, SpecfleetError
from engine.checkpoint import Checkpoint
from engine.json_fields import read_json_object
from engine.model_config import ModelConfig
from engine.text.tokenizer import Tokenizer

__all__ = ["DTYPES", "check_package", "main", "write_gguf"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FILE_TYPES = {"float32": "ALL_F32", "bfloat16": "MOSTLY_BF16", "float16": "MOSTLY_F16"}
_ARCHITECTURES = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
# llama.cpp knows by a name how a tokenizer cuts text into words. What goes before are contractions as 's: ours does not
# cut them off words in capitals, and Qwen's, which cuts as ours does otherwise, does.
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CUTTING = {r"]?\p{L}+|\p{N}" + _REST: "qwen2", r"]?\p{L}+|\p{N}{1,3}" + _REST: "llama-bpe"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 for what can never work."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.gguf_file", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--dtype", choices=DTYPES, help="of matrices; default: as stored")
    options = parser.parse_args(arguments)
    try:
        write_gguf(options.checkpoint, options.out, dtype=options.dtype)
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB")
    return 0


def write_gguf(folder: Path, path: Path, *, dtype: str | None = None) -> None:
    """Vectors are float32, as llama.cpp wants them; matrices are of `dtype`."""
    gguf = check_package()
    with Checkpoint.open(folder) as checkpoint:
        config = checkpoint.config
        kind = getattr(gguf.MODEL_ARCH, _ARCHITECTURES[config.architecture])
        writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[kind])
        try:
            writer.add_name(checkpoint.name)
            writer.add_file_type(getattr(gguf.LlamaFileType, _FILE_TYPES[dtype or config.dtype]))
            _write_shape(writer, config)
            _write_tokenizer(gguf, writer, folder, config)
            _write_tensors(gguf, writer, checkpoint, gguf.get_tensor_name_map(kind, config.num_layers), dtype)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def check_package() -> Any:
    """The package that writes such files; refused, with what to do, where it is not installed."""
    try:
        return import_module("gguf")
    except ImportError as error:
        raise InvalidArgument(
            "GGUF files are written by the package gguf, which is not installed here; install it with: pip install gguf"
        ) from error


def _write_shape(writer: Any, config: ModelConfig) -> None:
    if config.rope.kind != "none" or any(config.sliding_window):
        raise InvalidArgument(
            f"this model has rope {config.rope.kind!r} and sliding windows {set(config.sliding_window)}; "
            "converted are models with plain rope and without sliding windows"
        )
    writer.add_context_length(config.max_context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.mlp_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(gguf: Any, writer: Any, folder: Path, config: ModelConfig) -> None:
    """Ids that the tokenizer does not use stand for text that cannot occur."""
    tokenizer = Tokenizer.load(folder)
    tokens = [tokenizer.token(token_id) for token_id in range(config.vocab_size)]
    kinds = [
        gguf.TokenType.UNUSED
        if token is None
        else gguf.TokenType.CONTROL
        if tokenizer.is_special(token_id)
        else gguf.TokenType.NORMAL
        for token_id, token in enumerate(tokens)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cutting(folder))
    writer.add_token_list([token or f"[unused {token_id}]" for token_id, token in enumerate(tokens)])
    writer.add_token_types(kinds)
    gguf.SpecialVocab(folder, load_merges=True, n_vocab=config.vocab_size).add_to_gguf(writer, quiet=True)


def _cutting(folder: Path) -> str:
    found = read_json_object(folder / "tokenizer.json").get("pre_tokenizer") or {}
    if found.get("type") == "ByteLevel":
        return "gpt-2"
    for part in found.get("pretokenizers", ()):
        for ending, name in _CUTTING.items():
            if part.get("pattern", {}).get("Regex", "").endswith(ending):
                return name
    raise InvalidArgument(
        f"{folder / 'tokenizer.json'} cuts text by {found}; known here are byte-level BPE tokenizers of our demo "
        "family, of Qwen 2 and 3, of Llama 3, and of GPT-2"
    )


def _write_tensors(gguf: Any, writer: Any, checkpoint: Checkpoint, names: Any, dtype: str | None) -> None:
    config = checkpoint.config
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    for name in checkpoint.names:
        if name == "lm_head.weight" and config.tie_embeddings:
            continue  # readers take the embedding where there is no head
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise InvalidArgument(
                f"tensor {name} of {checkpoint.folder} has no place in a GGUF file of its architecture"
            )
        tensor = checkpoint.tensor(name, expect=checkpoint.shape(name))
        part = name.split(".")[-2]
        if part in heads and config.architecture in ("llama", "mistral"):
            tensor = _interleaved(tensor, heads[part])
        stored = torch.float32 if tensor.ndim == 1 else DTYPES[dtype] if dtype else tensor.dtype
        if stored == torch.bfloat16:  # which numpy does not know
            bits = tensor.to(stored).view(torch.uint8).numpy()
            writer.add_tensor(known, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(known, tensor.to(stored).numpy())


def _interleaved(rows: torch.Tensor, num_heads: int) -> torch.Tensor:
    """llama.cpp rotates neighbours where Hugging Face rotates the halves of a head, for this architecture alone."""
    halves = rows.reshape(num_heads, 2, -1, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape).contiguous()


if __name__ == "__main__":
    sys.exit(main())
