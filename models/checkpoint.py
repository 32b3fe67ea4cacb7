"""Resumable training state on disk: written atomically, verified when read, the last two kept."""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch

from contracts.errors import CheckpointError
from models.files import atomic_write

NUM_KEPT = 2
DIGEST_BYTES = 32
NAME = re.compile(r"step-(\d{8})\.state")


def save_state(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes the state behind its own SHA-256 and removes all but the newest checkpoints."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:08d}.state"
    atomic_write(path, hashlib.sha256(content).digest() + content)
    for old in state_files(folder)[:-NUM_KEPT]:
        old.unlink(missing_ok=True)
    return path


def state_files(folder: Path) -> list[Path]:
    """Oldest first. Unfinished temporary files have other names and are not among them."""
    return sorted(path for path in folder.glob("step-*.state") if NAME.fullmatch(path.name))


def step_of(path: Path) -> int:
    """Of one of the state files."""
    return int(path.stem.removeprefix("step-"))


def load_state(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error}") from error
    digest, body = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise CheckpointError(
            f"checkpoint {path} is damaged: its {len(content)} bytes do not match their checksum; "
            "delete it to fall back to the one before"
        )
    state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise CheckpointError(f"checkpoint {path} holds a {type(state).__name__}; a training state is a dict")
    return state


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest state, or None where training has not begun. A damaged one is an error, never skipped in silence."""
    files = state_files(folder)
    return load_state(files[-1]) if files else None
