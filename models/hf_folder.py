"""Checkpoint folders as Hugging Face lays them out: writing a network as one, and reading it back.

A folder appears under its name only when it is complete, so an interrupted or failed write leaves no folder that loads.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from contracts.errors import CheckpointError
from models.chat import BOS, CHAT_TEMPLATE, END, PAD
from models.files import flush_to_disk
from models.network import Network, Shape

MAX_SHARD_BYTES = 2 * 1024**3
INDEX_NAME = "model.safetensors.index.json"
EMBEDDING_NAME = "model.embed_tokens.weight"


def export(network: Network, tokenizer: Tokenizer, folder: Path, *, card: str) -> None:
    """Writes the network in bfloat16, with tokenizer, chat template and model card."""
    tensors = (
        (f"model.{name}", tensor.detach().bfloat16().contiguous()) for name, tensor in network.named_parameters()
    )
    write_folder(folder, shape=network.shape, tensors=tensors, tokenizer_json=tokenizer.to_str(), card=card, extra={})


def write_folder(
    folder: Path,
    *,
    shape: Shape,
    tensors: Iterable[tuple[str, Tensor]],  # names as in Hugging Face's Llama, bfloat16
    tokenizer_json: str,
    card: str,
    extra: Mapping[str, Any],  # further keys of config.json
) -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json)

    def fill(partial: Path) -> None:
        write_tensors(partial, tensors)
        (partial / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        write_json(partial / "tokenizer_config.json", tokenizer_config(shape))
        write_json(partial / "generation_config.json", generation_config(tokenizer))
        (partial / "README.md").write_text(card, encoding="utf-8")
        write_json(partial / "config.json", {**llama_config(shape, tokenizer), **extra})

    replace_folder(folder, fill)


def replace_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Fills a temporary folder beside `folder`, makes it durable and puts it in `folder`'s place, where there may be
    an older checkpoint and nothing else."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has files in it and no config.json: it is no checkpoint folder, and is not replaced by one; "
            "choose another folder"
        )
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.partial-"))
        partial.chmod(0o755)
        fill(partial)
        for path in partial.iterdir():
            path.chmod(0o644)
            flush_to_disk(path)
        if folder.exists():
            shutil.rmtree(folder)
        partial.replace(folder)
        flush_to_disk(folder.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write checkpoint folder {folder}: {error}; free some space or choose another folder"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def write_tensors(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """One file, or shards with an index where one would be too big. At most one shard is in memory at a time."""
    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}
    num_bytes = total_bytes = 0

    def flush() -> None:
        save_file(held, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()

    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if held and num_bytes + size > MAX_SHARD_BYTES:
            flush()
            num_bytes = 0
        held[name] = tensor
        num_bytes += size
        total_bytes += size
    flush()
    if len(shards) == 1:
        os.replace(folder / "shard-0", folder / "model.safetensors")
        return
    file_of = {}
    for index, names in enumerate(shards):
        file_name = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        os.replace(folder / f"shard-{index}", folder / file_name)
        file_of.update(dict.fromkeys(names, file_name))
    write_json(folder / INDEX_NAME, {"metadata": {"total_size": total_bytes}, "weight_map": file_of})


def llama_config(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.token_to_id(BOS),
        "eos_token_id": tokenizer.token_to_id(END),
        "pad_token_id": tokenizer.token_to_id(PAD),
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.mlp_size,
        "max_position_embeddings": shape.max_positions,
        "mlp_bias": False,
        "num_attention_heads": shape.num_heads,
        "num_hidden_layers": shape.num_layers,
        "num_key_value_heads": shape.num_kv_heads,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "vocab_size": shape.vocab_size,
    }


def tokenizer_config(shape: Shape) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.max_positions,
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "bos_token_id": tokenizer.token_to_id(BOS),
        "eos_token_id": tokenizer.token_to_id(END),
        "pad_token_id": tokenizer.token_to_id(PAD),
        "do_sample": False,
    }


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON: {error}; give a folder made by python -m models.build"
        ) from error
    if not isinstance(config, dict) or config.get("model_type") != "llama":
        found = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"{path} says model_type {found!r}; the demo family is 'llama'")
    return config


def shape_of(config: Mapping[str, Any], folder: Path) -> Shape:
    try:
        shape = Shape(
            hidden_size=int(config["hidden_size"]),
            num_layers=int(config["num_hidden_layers"]),
            num_heads=int(config["num_attention_heads"]),
            num_kv_heads=int(config["num_key_value_heads"]),
            head_dim=int(config["head_dim"]),
            mlp_size=int(config["intermediate_size"]),
            vocab_size=int(config["vocab_size"]),
            max_positions=int(config["max_position_embeddings"]),
            rope_theta=float(config["rope_theta"]),
            norm_eps=float(config["rms_norm_eps"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} lacks or garbles {error}; give a folder made by python -m models.build"
        ) from error
    if config.get("tie_word_embeddings") is not True:
        raise CheckpointError(
            f"{folder / 'config.json'} has tie_word_embeddings {config.get('tie_word_embeddings')}; "
            "the family ties them"
        )
    return shape


def load_network(folder: Path) -> Network:
    """The network of a folder, in float32."""
    network = Network(shape_of(read_config(folder), folder))
    found = read_tensors(folder)
    wanted = {f"model.{name}": parameter for name, parameter in network.named_parameters()}
    if found.keys() != wanted.keys():
        missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
        raise CheckpointError(
            f"weights in {folder} lack {missing[:4]} and hold unknown {unknown[:4]}; config.json and weights do not fit"
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            tensor = found[name]
            if tensor.shape != parameter.shape:
                raise CheckpointError(
                    f"{name} in {folder} has shape {list(tensor.shape)}; config.json implies {list(parameter.shape)}"
                )
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{name} in {folder} holds values that are not finite; the weights are damaged")
            parameter.copy_(tensor)
    return network.eval()


def read_tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} holds no model.safetensors; give a folder made by python -m models.build")
    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            tensors.update(load_file(path))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} is no complete safetensors file: {error}; the weights are damaged"
            ) from error
    return tensors
