"""Writing files so that a reader finds the old content or the new, never half of it."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from contracts.errors import CheckpointError


def atomic_write(path: Path, content: bytes) -> None:
    atomic_write_with(path, lambda temporary: temporary.write_bytes(content))


def atomic_write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary name beside `path`, makes it durable and renames it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o644)
            flush_to_disk(temporary)
            temporary.replace(path)
            flush_to_disk(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error}; nothing was replaced, free some space or choose another folder"
        ) from error


def flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
