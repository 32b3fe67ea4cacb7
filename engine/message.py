"""The one message of a step that rank 0 sends to the others: typed arrays, no pickle.

On the wire: the plain numbers as int64, then each array of the fields below
as its length (int64) and its bytes, filled up to a multiple of eight, in order.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from contracts.errors import Internal

__all__ = ["StepMessage"]

Array = np.ndarray[Any, np.dtype[Any]]

_COLUMNS = {"settings": 4, "edits": 2, "edit_values": 2}  # of the arrays that are tables


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMessage:
    """Everything a rank needs to do its part of a step. An empty one (no rows) says goodbye."""

    DTYPES: ClassVar[dict[str, str]] = {
        "rows": "<i4",
        "tokens": "<i8",
        "chosen": "<i4",
        "copies": "<i8",
        "hook_layers": "<i4",
        "seeds": "<u8",
        "positions": "<u8",
        "settings": "<f8",
        "edits": "<i8",
        "edit_values": "<f4",
        "masks": "<u1",
        "masked": "<i4",
    }

    num_rows: int
    num_table_entries: int
    num_top: int  # how many of the best tokens of each chosen row are wanted
    num_likeliest: int  # how many log-probabilities beside the chosen token's; 0 for none at all
    is_limited: bool  # whether top-k, top-p or min-p is active anywhere
    num_more: int  # of the last rows, whose tokens come of the step itself; nothing of it crosses to other ranks
    more_below: int  # the choice that names the first of them
    rows: Array  # kernels.paged.Rows.flat
    tokens: Array  # [rows]
    chosen: Array  # [chosen]: rows whose logits are wanted
    copies: Array  # [groups of (count, sources.., targets..)]
    hook_layers: Array  # [k]: layers after which rank 0 may drop rows
    seeds: Array  # [chosen]
    positions: Array  # [chosen]: of the token that is being chosen
    settings: Array  # [chosen, 4]: temperature, top_k, top_p, min_p
    edits: Array  # [edits, 2]: (index into chosen, token)
    edit_values: Array  # [edits, 2]: (factor, addend)
    masks: Array  # [masked, bytes]: bit t % 8 of byte t / 8 is 1 where token t is allowed
    masked: Array  # [masked]: index into chosen

    @property
    def wants_logprobs(self) -> bool:
        """Whether the chosen tokens' log-probabilities are computed."""
        return self.num_likeliest > 0

    @staticmethod
    def array(name: str, values: Items[Any]) -> Array:
        """A field's array. Most fields are empty in most steps, and share theirs: making one takes as long as a row."""
        return np.array(values, _TYPES[name]) if values else _EMPTY[name]

    @staticmethod
    def goodbye() -> StepMessage:
        """Tells the followers to end."""
        return StepMessage(
            num_rows=0,
            num_table_entries=0,
            num_top=0,
            num_likeliest=0,
            is_limited=False,
            num_more=0,
            more_below=0,
            **_EMPTY,
        )

    def encode(self) -> bytes:
        """The bytes that `decode` reads."""
        numbers = [self.num_rows, self.num_table_entries, self.num_top, self.num_likeliest, self.is_limited]
        pieces = [np.array(numbers, "<i8").tobytes()]
        for name, dtype in self.DTYPES.items():
            content = np.ascontiguousarray(getattr(self, name), dtype).tobytes()
            pieces += [len(content).to_bytes(8, "little"), content, bytes(-len(content) % 8)]
        return b"".join(pieces)

    @staticmethod
    def decode(message: bytes) -> StepMessage:
        """A message from its bytes, or Internal where they are not one."""
        content = bytearray(message)  # arrays that torch may treat as its own
        numbers = [int(x) for x in np.frombuffer(content, "<i8", 5)]
        arrays: dict[str, Array] = {}
        at = 8 * len(numbers)
        for name, dtype in StepMessage.DTYPES.items():
            size = int.from_bytes(content[at : at + 8], "little")
            arrays[name] = np.frombuffer(content, dtype, size // np.dtype(dtype).itemsize, at + 8)
            at += 8 + size + -size % 8
        if at != len(content):
            raise Internal(f"a step message of {len(content)} bytes ends at byte {at}; ranks must run the same code")
        for name, width in _COLUMNS.items():
            arrays[name] = arrays[name].reshape(-1, width)
        if arrays["masked"].size:
            arrays["masks"] = arrays["masks"].reshape(arrays["masked"].size, -1)
        num_rows, num_table_entries, num_top, num_likeliest, is_limited = numbers
        return StepMessage(
            num_rows=num_rows,
            num_table_entries=num_table_entries,
            num_top=num_top,
            num_likeliest=num_likeliest,
            is_limited=bool(is_limited),
            num_more=0,
            more_below=0,
            **arrays,
        )


_TYPES = {name: np.dtype(dtype) for name, dtype in StepMessage.DTYPES.items()}  # reading such a word takes a while
_EMPTY: dict[str, Array] = {
    name: np.zeros((0, _COLUMNS[name]) if name in _COLUMNS else 0, dtype) for name, dtype in StepMessage.DTYPES.items()
}
