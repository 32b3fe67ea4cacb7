"""Fetching a checkpoint from a Hugging Face hub: the one place that reaches the network for weights."""

from __future__ import annotations

import re
from pathlib import Path

from contracts.errors import CheckpointError

# `name` or `owner/name`, and `@revision` where one is wanted. Paths that start with . or / are never hub ids.
_HUB_ID = re.compile(r"(?P<id>\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(?P<revision>[\w./-]+))?")

_WANTED = ("model*.safetensors", "model.safetensors.index.json", "*.json", "*.jinja")
# Subfolders hold other formats (onnx, original, gguf) of the same weights.
_UNWANTED = ("*/*",)

_CONNECT_TIMEOUT_S = 10.0


def is_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None


def download(name: str, *, endpoint: str | None = None, cache: Path | None = None) -> Path:
    """The local folder holding the safetensors and JSON files of `owner/name[@revision]`, fetched if need be.

    Pickled weights are not even downloaded. Files already in the cache are used when the hub cannot be reached.
    """
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise CheckpointError(f"{name!r} is not a hub id; one looks like owner/name or owner/name@revision")
    # Imported late: a node that reads local folders only should not pay for an HTTP stack.
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            match["id"],
            revision=match["revision"],
            allow_patterns=list(_WANTED),
            ignore_patterns=list(_UNWANTED),
            endpoint=endpoint,
            cache_dir=cache,
            etag_timeout=_CONNECT_TIMEOUT_S,
        )
    except Exception as error:  # the client lets errors of several libraries through; to the user all mean this one
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{name!r} is not a local folder, and as a hub id it could not be fetched: {reason}. "
            "Give a local checkpoint folder, or correct the id, the access token or the connection."
        ) from error
    return Path(folder)
