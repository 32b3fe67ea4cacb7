"""The pool of cache blocks: who owns which, and which finished blocks may be shared.

Pure bookkeeping on block numbers; the memory itself is `kernels.paged.KVCache`. A block is owned by one or more
sequences (counted), kept for its contents (nobody owns it, but its digest is known), or empty. Kept blocks count as
free: the least recently used is emptied when an empty one is wanted and there is none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from contracts.errors import Internal, OutOfBlocks

__all__ = ["BlockPool"]


class BlockPool:
    """Blocks 0..num_blocks-1."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._num_owners = [0] * num_blocks
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` could hand out now."""
        return len(self._empty) + len(self._kept)

    def allocate(self, count: int) -> list[int]:
        """`count` blocks with one owner each; either all of them or OutOfBlocks and no change."""
        if count > self.num_free:
            raise OutOfBlocks(num_needed=count, num_free=self.num_free)
        return [self._take_one() for _ in range(count)]

    def _take_one(self) -> int:
        if self._empty:
            block = self._empty.pop()
        else:
            block, _ = self._kept.popitem(last=False)
            del self._block_of[self._digest_of.pop(block)]
        self._num_owners[block] = 1
        return block

    def share(self, block: int) -> int:
        """One more owner of a block that has owners or is kept."""
        if self._num_owners[block] == 0 and block not in self._kept:
            raise Internal(f"block {block} is empty and cannot be shared")
        self._kept.pop(block, None)
        self._num_owners[block] += 1
        return block

    def release(self, blocks: Iterable[int]) -> None:
        """One owner less for each; the last owner leaves a block kept if its contents are known, else empty."""
        for block in blocks:
            if self._num_owners[block] <= 0:
                raise Internal(f"block {block} was released more often than it was taken")
            self._num_owners[block] -= 1
            if self._num_owners[block] == 0:
                if block in self._digest_of:
                    self._kept[block] = None
                else:
                    self._empty.append(block)

    def publish(self, block: int, digest: bytes) -> None:
        """Makes an owned, complete block findable by what it holds. The first of equal blocks is the one found."""
        if block not in self._digest_of and digest not in self._block_of:
            self._digest_of[block] = digest
            self._block_of[digest] = block

    def find(self, digest: bytes) -> int | None:
        """The block that holds this, if one does."""
        return self._block_of.get(digest)

    def num_owners(self, block: int) -> int:
        """How many sequences own the block."""
        return self._num_owners[block]

    def check(self) -> None:
        """Every block is in exactly one state; for tests and for a health check."""
        empty, kept = set(self._empty), set(self._kept)
        owned = {block for block, count in enumerate(self._num_owners) if count > 0}
        if len(empty) != len(self._empty) or len(empty) + len(kept) + len(owned) != self.num_blocks:
            raise Internal(
                f"blocks: {len(self._empty)} empty, {len(kept)} kept, {len(owned)} owned of {self.num_blocks}"
            )
        if empty & kept or empty & owned or kept & owned:
            raise Internal("a block is in two states at once")
        if any(block not in self._digest_of for block in kept):
            raise Internal("a kept block has no digest")
        if {digest: block for block, digest in self._digest_of.items()} != self._block_of:
            raise Internal("digests and blocks do not mirror each other")
