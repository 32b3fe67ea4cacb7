"""Reading a Hugging Face checkpoint folder: which files hold the weights, and its tensors whole or sliced."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open

from contracts.errors import CheckpointError
from contracts.types import ModelIdentity
from engine.hub import download, is_hub_id
from engine.json_fields import read_json_object, shown
from engine.model_config import ModelConfig
from engine.text.tokenizer import Tokenizer

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# Formats that run code on loading or that we have no reader for, by what users call them.
_FOREIGN_SUFFIXES = {
    ".bin": "pickled",
    ".pt": "pickled",
    ".pth": "pickled",
    ".ckpt": "pickled",
    ".pkl": "pickled",
    ".h5": "Keras",
    ".msgpack": "Flax",
    ".gguf": "GGUF",
    ".onnx": "ONNX",
}
_READABLE_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

# Up to this size the digest covers every byte (a second or two); above it, samples of every tensor.
FULL_DIGEST_BYTES = 2 * 1024**3
_SAMPLE_BYTES = 4096
# What the config says about when to stop and how far to go; the dtype counts with each tensor.
_NOT_ARITHMETIC = ("eos_token_ids", "bos_token_id", "max_context", "dtype")


class Checkpoint:
    """The weights of one folder. Opening reads headers only; tensors are read when asked for, whole or sliced."""

    def __init__(
        self, name: str, folder: Path, config: ModelConfig, file_of: dict[str, Path], files: dict[Path, Any]
    ) -> None:
        self.name = name
        self.folder = folder
        self.config = config
        self._file_of = file_of
        self._files = files

    @staticmethod
    def open(path_or_hub_id: str | Path) -> Checkpoint:
        """Find the folder, check that its weights are complete and safe to read, and read its config."""
        folder = resolve_folder(path_or_hub_id)
        config = ModelConfig.load(folder)
        shards = _read_index(folder)
        files = {path: _open_file(path) for path in sorted(set(shards.values()) or {folder / SINGLE_FILE})}
        held = {path: frozenset(handle.keys()) for path, handle in files.items()}
        if not shards:
            shards = {name: path for path, names in held.items() for name in names}
        for name, path in shards.items():
            if name not in held[path]:
                raise CheckpointError(f"{folder / INDEX_FILE} says that {name} is in {path.name}, but it is not there")
        name = str(path_or_hub_id) if not Path(path_or_hub_id).expanduser().is_dir() else folder.resolve().name
        return Checkpoint(name, folder, config, shards, files)

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors, in alphabetical order."""
        return tuple(sorted(self._file_of))

    def has(self, name: str) -> bool:
        return name in self._file_of

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """The dtype the tensor is stored in."""
        stored = self._slice(name).get_dtype()
        if stored not in _READABLE_DTYPES:
            raise CheckpointError(
                f"tensor {name} in {self._file_of[name]} is stored as {stored}; "
                f"readable are {', '.join(_READABLE_DTYPES)}"
            )
        return _READABLE_DTYPES[stored]

    def tensor(
        self, name: str, *, expect: tuple[int, ...], rows: slice | None = None, columns: slice | None = None
    ) -> torch.Tensor:
        """A contiguous copy of the tensor, or of its given rows and columns, in the dtype of the file.

        `expect` is the shape of the whole tensor, whatever part is wanted. Only the pages that hold that part are
        read. It is a copy and not a view of the mapped file, so that a checkpoint replaced on disk cannot change or
        crash a running model.
        """
        self.dtype(name)
        found = self.shape(name)
        if found != tuple(expect):
            raise CheckpointError(
                f"tensor {name} in {self._file_of[name]} has shape {list(found)}, "
                f"but config.json implies {list(expect)}"
            )
        if rows is None and columns is None:
            whole: torch.Tensor = self._files[self._file_of[name]].get_tensor(name)
            return whole.clone(memory_format=torch.contiguous_format)
        parts = [
            _checked_range(name, found, axis, part) for axis, part in enumerate((rows, columns)) if part is not None
        ]
        index = tuple(parts) if rows is not None else (slice(None), *parts)
        part_of: torch.Tensor = self._slice(name)[index]
        return part_of.clone(memory_format=torch.contiguous_format)

    def identity(self, tokenizer: Tokenizer, *, dtype: str | None = None) -> ModelIdentity:
        """What this model is to the rest of the fleet; `dtype` is what it computes in, if not what it is stored in."""
        return ModelIdentity(
            name=self.name,
            architecture=self.config.architecture,
            vocab_size=self.config.vocab_size,
            tokenizer_digest=tokenizer.digest,
            weights_digest=self.digest(),
            dtype=dtype or self.config.dtype,
            num_parameters=sum(math.prod(self.shape(name)) for name in self.names),
        )

    def digest(self) -> str:
        """SHA-256 over the config and names, dtypes, shapes and contents of all tensors, in whatever files they are.

        Up to `FULL_DIGEST_BYTES` of weights every byte counts. Above, of each tensor its first, middle and last 4 KiB
        count: any training step moves all of them, but an edit of single values elsewhere would go unnoticed. So it
        tells models apart; it does not prove that nobody tampered with a large file.
        """
        contents = {name: self._bytes(name) for name in self.names}
        is_full = sum(content.numel() for content in contents.values()) <= FULL_DIGEST_BYTES
        total = hashlib.sha256(b"specfleet weights, full\n" if is_full else b"specfleet weights, sampled\n")
        total.update(f"{_arithmetic_of(self.config)}\n".encode())
        for name, content in contents.items():
            total.update(f"{name} {self._slice(name).get_dtype()} {list(self.shape(name))}\n".encode())
            for piece in [content] if is_full else _samples(content):
                total.update(piece.numpy().data)
        return total.hexdigest()

    def close(self) -> None:
        """Let go of the mapped files. Tensors already read stay valid."""
        self._files.clear()
        self._file_of.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _slice(self, name: str) -> Any:
        if name not in self._file_of:
            searched = ", ".join(sorted(path.name for path in self._files)) or "no file: the checkpoint is closed"
            raise CheckpointError(f"tensor {name} is missing from {self.folder} (searched: {searched})")
        return self._files[self._file_of[name]].get_slice(name)

    def _bytes(self, name: str) -> torch.Tensor:
        """The tensor's bytes as a flat view of the mapped file."""
        whole: torch.Tensor = self._files[self._file_of[name]].get_tensor(name)
        return whole.reshape(-1).view(torch.uint8)


def resolve_folder(path_or_hub_id: str | Path) -> Path:
    """A local folder as it is; anything that can only be a hub id is fetched."""
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; give the checkpoint folder that holds config.json and *.safetensors")
    if isinstance(path_or_hub_id, str) and is_hub_id(path_or_hub_id):
        return download(path_or_hub_id)
    raise CheckpointError(f"{path} does not exist; give a checkpoint folder, or a hub id like owner/name")


def _read_index(folder: Path) -> dict[str, Path]:
    """Tensor name to shard; empty if one file holds everything, which then must exist."""
    if (folder / SINGLE_FILE).is_file():
        return {}
    index_path = folder / INDEX_FILE
    if not index_path.is_file():
        raise _no_weights(folder)
    weight_map = read_json_object(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index_path}: weight_map is {shown(weight_map)}; it must map tensor names to files")
    return {name: _shard_path(index_path, name, shard) for name, shard in weight_map.items()}


def _shard_path(index_path: Path, name: str, shard: object) -> Path:
    # A plain file name only: an index must not be able to make us read outside its folder.
    if not isinstance(shard, str) or Path(shard).name != shard or "\\" in shard or not shard.endswith(".safetensors"):
        raise CheckpointError(
            f"{index_path}: weight_map[{shown(name)}] is {shown(shard)}; "
            "it must be the name of a .safetensors file beside the index"
        )
    path = index_path.parent / shard
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; {index_path.name} says that it holds {name}")
    return path


def _no_weights(folder: Path) -> CheckpointError:
    """Says what is there instead, as the remedy depends on it."""
    present = sorted(path.name for path in folder.iterdir() if path.is_file())
    wanted = f"{SINGLE_FILE} or {INDEX_FILE}"
    foreign = [name for name in present if Path(name).suffix in _FOREIGN_SUFFIXES]
    if foreign:
        kinds = ", ".join(sorted({_FOREIGN_SUFFIXES[Path(name).suffix] for name in foreign}))
        return CheckpointError(
            f"{folder} has only {kinds} weights ({', '.join(foreign[:3])}); only safetensors are read: convert them, "
            "for example by loading and saving the model with transformers (save_pretrained), which writes safetensors"
        )
    other = [name for name in present if name.endswith(".safetensors")]
    if other:
        return CheckpointError(f"{folder} has {', '.join(other[:3])}, but neither {wanted}, which name the weights")
    return CheckpointError(f"{folder} has no weights: it needs {wanted} (random weights are never made up)")


def _open_file(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file: {error}; copy or download it again"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _checked_range(name: str, shape: tuple[int, ...], axis: int, part: slice) -> slice:
    """Python would quietly shorten a slice that reaches too far, and a rank would then hold the wrong weights."""
    if axis >= len(shape):
        raise CheckpointError(f"tensor {name} has shape {list(shape)}; it has no axis {axis} to slice")
    start, stop = part.start or 0, shape[axis] if part.stop is None else part.stop
    if part.step not in (None, 1) or not 0 <= start < stop <= shape[axis]:
        raise CheckpointError(
            f"{part} is not a range within axis {axis} of tensor {name}, which has shape {list(shape)}"
        )
    return slice(start, stop)


def _arithmetic_of(config: ModelConfig) -> dict[str, Any]:
    """The part of the config that changes what the weights compute."""
    return {key: value for key, value in asdict(config).items() if key not in _NOT_ARITHMETIC}


def _samples(content: torch.Tensor) -> Iterator[torch.Tensor]:
    """First, middle and last bytes of a flat byte tensor [num_bytes]."""
    num_bytes = content.numel()
    for start in (0, max(0, (num_bytes - _SAMPLE_BYTES) // 2), max(0, num_bytes - _SAMPLE_BYTES)):
        yield content[start : start + _SAMPLE_BYTES]
