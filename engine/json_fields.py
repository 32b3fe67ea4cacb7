"""Typed reading of JSON that others wrote: every complaint names file, key, value and what would be right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contracts.errors import CheckpointError

# Far above any real config or index file; keeps a wrong or hostile file from filling memory.
MAX_JSON_BYTES = 256 * 1024 * 1024
# The most that a count or a length can be.
MAX_INTEGER = 2**31 - 1
# No factor, base or epsilon of a model comes near; products of two such numbers stay exact integers or finite floats.
MAX_NUMBER = 1e12


def read_json_object(path: Path) -> dict[str, Any]:
    """The object that the JSON file holds; anything else is a CheckpointError naming the file."""
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_JSON_BYTES:
            raise CheckpointError(
                f"{path} has {num_bytes} bytes; a JSON file of a checkpoint has at most {MAX_JSON_BYTES}"
            )
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; a checkpoint folder needs it") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a JSON {type(loaded).__name__}; it must hold an object")
    return loaded


class Fields:
    """Reads typed values out of one JSON object; null counts as absent, as it does for Hugging Face."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def names(self, key: str) -> bool:
        """Whether the key is written at all, be it as null."""
        return key in self._values

    def raw(self, key: str) -> Any:
        return self._values.get(key)

    def refuse(self, key: str, expected: str) -> CheckpointError:
        if key not in self:
            return CheckpointError(f"{self._where}: {key} is missing; it must be {expected}")
        return CheckpointError(f"{self._where}: {key} is {shown(self._values[key])}; it must be {expected}")

    def integer(self, key: str, default: int | None = None, *, least: int = 1, most: int = MAX_INTEGER) -> int:
        value = self._values.get(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.refuse(key, f"an integer from {least} to {most}")
        return value

    def number(self, key: str, default: float | None = None, *, above: float = 0.0) -> float:
        value = self._values.get(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= MAX_NUMBER:
            raise self.refuse(key, f"a number above {above:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._values.get(key)
        if value is None:
            value = default
        if not isinstance(value, str):
            raise self.refuse(key, "a string")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """The object under the key; empty if absent."""
        value = self._values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.refuse(key, "an object")
        return value

    def texts(self, key: str) -> list[str] | None:
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise self.refuse(key, "a list of strings")
        return value

    def token_ids(self, key: str) -> tuple[int, ...]:
        """One id or a list of ids, in order and without repeats; empty if absent."""
        value = self._values.get(key)
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        if any(isinstance(entry, bool) or not isinstance(entry, int) or entry < 0 for entry in ids):
            raise self.refuse(key, "a token id or a list of token ids")
        return tuple(dict.fromkeys(ids))


def shown(value: Any) -> str:
    """The value as JSON, cut short: error messages must stay one readable sentence."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
