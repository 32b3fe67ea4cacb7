"""The block pool's books: every block in exactly one state, and equal to what an independent count says."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import Internal, OutOfBlocks
from engine.blocks import BlockPool

NUM_BLOCKS = 7


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_books_equal_an_independent_count_after_any_operations(seed: int) -> None:
    rng, pool = random.Random(seed), BlockPool(NUM_BLOCKS)
    owned: Counter[int] = Counter()
    contents: dict[bytes, int] = {}  # what is findable
    kept: list[int] = []  # nobody's, but findable; least recently used first
    for _ in range(150):
        match rng.choice(["allocate", "release", "release", "share", "publish", "find"]):
            case "allocate":
                count = rng.randrange(4)
                if count > NUM_BLOCKS - len(+owned):
                    with pytest.raises(OutOfBlocks) as refused:
                        pool.allocate(count)
                    assert (refused.value.num_needed, refused.value.num_free) == (count, NUM_BLOCKS - len(+owned))
                else:
                    num_empty = NUM_BLOCKS - len(+owned) - len(kept)
                    blocks = pool.allocate(count)
                    evicted, kept = kept[: max(count - num_empty, 0)], kept[max(count - num_empty, 0) :]
                    assert set(evicted) <= set(blocks)
                    assert not set(blocks) & (set(kept) | set(+owned))
                    contents = {digest: block for digest, block in contents.items() if block not in evicted}
                    owned.update(blocks)
            case "release" if +owned:
                block = rng.choice(sorted(+owned))
                pool.release([block])
                owned[block] -= 1
                if owned[block] == 0 and block in contents.values():
                    kept.append(block)
            case "share" if +owned or kept:
                block = rng.choice(sorted(+owned) + kept)
                assert pool.share(block) == block
                owned[block] += 1
                kept = [other for other in kept if other != block]
            case "publish" if +owned:
                block, digest = rng.choice(sorted(+owned)), rng.randbytes(1)[:1]
                pool.publish(block, digest)
                if block not in contents.values():
                    contents.setdefault(digest, block)
            case "find":
                digest = rng.randbytes(1)
                assert pool.find(digest) == contents.get(digest)
        pool.check()
        assert pool.num_free == NUM_BLOCKS - len(+owned)
        assert [pool.num_owners(block) for block in range(NUM_BLOCKS)] == [owned[b] for b in range(NUM_BLOCKS)]


def test_the_least_recently_used_contents_go_first() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(3)
    for block, digest in zip(blocks, (b"a", b"b", b"c"), strict=True):
        pool.publish(block, digest)
    pool.release([blocks[1]])
    pool.release([blocks[0], blocks[2]])
    pool.release([pool.share(blocks[1])])  # used again: now the most recent
    pool.allocate(1)
    assert [pool.find(digest) for digest in (b"a", b"b", b"c")] == [None, blocks[1], blocks[2]]
    pool.allocate(1)
    assert [pool.find(digest) for digest in (b"a", b"b", b"c")] == [None, blocks[1], None]


def test_misuse_of_the_pool_is_told() -> None:
    pool = BlockPool(2)
    (block,) = pool.allocate(1)
    pool.release([block])
    with pytest.raises(Internal, match=f"block {block} was released more often than it was taken"):
        pool.release([block])
    with pytest.raises(Internal, match=f"block {block} is empty"):
        pool.share(block)


def test_a_check_finds_a_block_that_got_lost() -> None:
    pool = BlockPool(2)
    (block,) = pool.allocate(1)
    pool._num_owners[block] = 0
    with pytest.raises(Internal, match="1 empty, 0 kept, 0 owned of 2"):
        pool.check()
