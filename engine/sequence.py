"""One sequence in the cache: its committed tokens, its block table, and the tree of nodes below them.

Committed tokens lie in order: position p is lane p % 16 of the table's block p / 16. Tree nodes need a slot of their
own as long as they live. The node that continues the order (its parent in order, the place at its position not taken)
gets that very place, so that the likeliest chain needs no copy when it is accepted; every other node gets a spare
slot, and is copied into place when accepted. Nothing else ever moves.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from contracts.types import ROOT, SamplingParams, SequenceId, TenantId
from engine.blocks import BlockPool
from engine.history import TokenHistory
from kernels.paged import BLOCK_TOKENS

__all__ = ["Node", "Sequence", "first_digest", "next_digest"]


def first_digest(tenant: TenantId) -> bytes:
    """What stands for the empty prefix of a tenant; no two tenants share any digest."""
    return hashlib.blake2b(str(tenant).encode(), digest_size=16).digest()


def next_digest(before: bytes, tokens: Items[int]) -> bytes:
    """What stands for a block of tokens and all before it."""
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()


@dataclass(slots=True)
class Node:
    """A tree node whose keys and values are in the cache, or are being written by the current step."""

    token: int
    parent: int
    position: int
    slot: int
    num_in_table: int  # leading positions that its row reads through the table
    tail: tuple[int, ...]  # slots of the rest of its path, itself last; empty where all of it is in order


@dataclass(slots=True)
class Sequence:
    """The state of one sequence; `pool` is shared by all sequences of an engine."""

    id: SequenceId
    tenant: TenantId
    sampling: SamplingParams
    pool: BlockPool
    tokens: list[int]
    num_prompt: int
    num_computed: int = 0
    allowed: bytes | None = None  # bit t % 8 of byte t // 8 is 1 where token t may be chosen; None where all may
    table: list[int] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    spare_blocks: list[int] = field(default_factory=list)
    free_spare_slots: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    tip: int = ROOT
    """The last node whose whole path lies in order; its next child does too."""
    history: TokenHistory = field(init=False)

    def __post_init__(self) -> None:
        self.history = TokenHistory(self.sampling, self.num_prompt)

    @property
    def num_pending(self) -> int:
        """Committed tokens whose keys and values are not computed yet."""
        return len(self.tokens) - self.num_computed

    @property
    def chooses_plainly(self) -> bool:
        """Whether nothing but temperature and noise makes tokens of logits."""
        sampling, is_edited = self.sampling, self.history.is_active or bool(self.sampling.logit_bias)
        is_limited = sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0
        is_cut = is_limited and not sampling.is_greedy
        return not (is_edited or is_cut or self.allowed is not None or sampling.num_logprobs > 0)

    @property
    def blocks(self) -> list[int]:
        """All blocks that this sequence owns a share of."""
        return self.table + self.spare_blocks

    def adopt_prefix(self) -> int:
        """Shares the blocks of the longest prefix the pool has; the last token is always left to compute."""
        digest = first_digest(self.tenant)
        for first in range(0, (len(self.tokens) - 1) // BLOCK_TOKENS * BLOCK_TOKENS, BLOCK_TOKENS):
            digest = next_digest(digest, self.tokens[first : first + BLOCK_TOKENS])
            block = self.pool.find(digest)
            if block is None:
                break
            self.table.append(self.pool.share(block))
            self.digests.append(digest)
        self.num_computed = len(self.table) * BLOCK_TOKENS
        return self.num_computed

    # Placing: slots for the rows of a step, before it runs.

    def blocks_needed(self, num_rows: int, parents: Items[int]) -> int:
        """How many new blocks it takes to place `num_rows` pending tokens, then nodes with these parents."""
        tip, num_in_order = self.tip, self._num_in_order
        ends = [node.position + 1 for node in self.nodes]
        for index, parent in enumerate(parents, start=len(self.nodes)):
            ends.append(1 + (len(self.tokens) if parent == ROOT else ends[parent]))
            if parent == tip:
                tip, num_in_order = index, num_in_order + 1
        num_spare = len(self.nodes) + len(parents) - num_in_order
        num_spare_held = len(self.spare_blocks) * BLOCK_TOKENS
        num_positions = max([self.num_computed + num_rows, *ends])
        table = -(-num_positions // BLOCK_TOKENS) - len(self.table)
        return max(table, 0) + max(-(-(num_spare - num_spare_held) // BLOCK_TOKENS), 0)

    @property
    def _num_in_order(self) -> int:
        return 0 if self.tip == ROOT else self.nodes[self.tip].position + 1 - len(self.tokens)

    def place_pending(self, num_rows: int) -> list[int]:
        """Slots of the next `num_rows` pending tokens, in order."""
        first, last = self.num_computed, self.num_computed + num_rows
        self._grow_table(last)
        slots: list[int] = []
        for b in range(first // BLOCK_TOKENS, -(-last // BLOCK_TOKENS)):
            base = self.table[b] * BLOCK_TOKENS
            low, high = max(first - b * BLOCK_TOKENS, 0), min(last - b * BLOCK_TOKENS, BLOCK_TOKENS)
            slots.extend(range(base + low, base + high))
        return slots

    def place_node(self, token: int, parent: int) -> Node:
        """A slot for a new node below `parent` (an index into `nodes`, or ROOT) and how its row reads its path."""
        above = None if parent == ROOT else self.nodes[parent]
        position = len(self.tokens) if above is None else above.position + 1
        # Also for a node out of order: when it is accepted its place must be there, for a commit cannot be refused.
        self._grow_table(position + 1)
        if parent == self.tip:
            self.tip = len(self.nodes)
            slot = self.table[position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS
            node = Node(token, parent, position, slot, position + 1, ())
        else:
            slot = self._take_spare()
            num_in_table = position if above is None else above.num_in_table
            node = Node(token, parent, position, slot, num_in_table, (*(above.tail if above else ()), slot))
        self.nodes.append(node)
        return node

    def _grow_table(self, num_positions: int) -> None:
        missing = -(-num_positions // BLOCK_TOKENS) - len(self.table)
        if missing > 0:
            self.table.extend(self.pool.allocate(missing))

    def _take_spare(self) -> int:
        if not self.free_spare_slots:
            (block,) = self.pool.allocate(1)
            self.spare_blocks.append(block)
            self.free_spare_slots = list(range((block + 1) * BLOCK_TOKENS - 1, block * BLOCK_TOKENS - 1, -1))
        return self.free_spare_slots.pop()

    # Settling: what a finished step, or a verdict from elsewhere, makes of it.

    def mark_computed(self, num_rows: int) -> None:
        """The next `num_rows` pending tokens are in the cache now; whole blocks become findable."""
        self.num_computed += num_rows
        self._publish()

    def commit(
        self, tokens: Items[int], path: Items[int] | None = None
    ) -> tuple[dict[int, int], list[tuple[int, int]]]:
        """Appends decided tokens and re-roots the tree under the last of them.

        Tokens that follow nodes of the tree (those of `path` where it is given) take over their keys and values; the
        others become pending. Returns the surviving nodes (old index to new index) and the slot copies (source, target)
        to make before the next step.
        """
        if not tokens:
            return {index: index for index in range(len(self.nodes))}, []
        adopted = list(self.path_of(tokens) if path is None else path)
        copies = []
        first = len(self.tokens)
        self.tokens.extend(tokens)
        for position, index in enumerate(adopted, start=first):
            target = self.table[position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS
            if self.nodes[index].slot != target:
                copies.append((self.nodes[index].slot, target))
        root = adopted[-1] if adopted else ROOT
        keeps_subtree = len(adopted) == len(tokens) and bool(adopted)
        survivors = self._keep_below(root) if keeps_subtree else self._drop_all()
        self.num_computed += len(adopted)
        self._trim_table()
        self._publish()
        return survivors, copies

    def path_of(self, tokens: Items[int]) -> list[int]:
        """Indices of the nodes that spell the tokens from the root down, as far as they go."""
        path: list[int] = []
        parent = ROOT
        for token in tokens:
            found = next((i for i, n in enumerate(self.nodes) if n.parent == parent and n.token == token), None)
            if found is None:
                break
            path.append(found)
            parent = found
        return path

    def _keep_below(self, root: int) -> dict[int, int]:
        """Keeps the nodes below `root`, which now is the last committed token, and frees the rest."""
        survivors: dict[int, int] = {}
        kept: list[Node] = []
        root_depth_in_tail = len(self.nodes[root].tail)
        for index, node in enumerate(self.nodes):
            if node.parent != root and node.parent not in survivors:
                continue
            survivors[index] = len(kept)
            tail = node.tail[root_depth_in_tail:]
            kept.append(
                Node(
                    token=node.token,
                    parent=ROOT if node.parent == root else survivors[node.parent],
                    position=node.position,
                    slot=node.slot,
                    num_in_table=node.position + 1 - len(tail),
                    tail=tail,
                )
            )
        self._free_spares(except_for={node.slot for node in kept if node.tail})
        self.nodes = kept
        self.tip = max((i for i, node in enumerate(kept) if not node.tail), default=ROOT)
        return survivors

    def _drop_all(self) -> dict[int, int]:
        self.nodes, self.tip = [], ROOT
        self._free_spares(except_for=set())
        return {}

    def drop_nodes(self) -> None:
        """Frees all tree nodes and whatever only they needed."""
        self.keep_nodes(0)

    def name_last_nodes(self, count: int, tokens: Items[int]) -> None:
        """The last so many nodes were placed before their tokens were known: these are the first ones'; the others
        became nothing."""
        first = len(self.nodes) - count
        for node, token in zip(self.nodes[first:], tokens, strict=False):
            node.token = token
        if len(tokens) < count:
            self.keep_nodes(first + len(tokens))

    def keep_nodes(self, count: int) -> None:
        """Forgets all but the first `count` nodes, as if the others had never been placed."""
        del self.nodes[count:]
        self._free_spares(except_for={node.slot for node in self.nodes if node.tail})
        self.tip = max((i for i, node in enumerate(self.nodes) if not node.tail), default=ROOT)
        self._trim_table()

    def _free_spares(self, *, except_for: set[int]) -> None:
        used_blocks = {slot // BLOCK_TOKENS for slot in except_for}
        idle = [block for block in self.spare_blocks if block not in used_blocks]
        self.spare_blocks = [block for block in self.spare_blocks if block in used_blocks]
        self.pool.release(idle)
        self.free_spare_slots = [
            slot
            for block in self.spare_blocks
            for slot in range((block + 1) * BLOCK_TOKENS - 1, block * BLOCK_TOKENS - 1, -1)
            if slot not in except_for
        ]

    def _trim_table(self) -> None:
        """Gives back blocks past everything that is computed, and past the places that nodes will need."""
        num_positions = max([self.num_computed, *(node.position + 1 for node in self.nodes)])
        needed = -(-num_positions // BLOCK_TOKENS)
        self.pool.release(self.table[needed:])
        del self.table[needed:]

    def _publish(self) -> None:
        num_whole = self.num_computed // BLOCK_TOKENS
        while len(self.digests) < num_whole:
            first = len(self.digests) * BLOCK_TOKENS
            before = self.digests[-1] if self.digests else first_digest(self.tenant)
            self.digests.append(next_digest(before, self.tokens[first : first + BLOCK_TOKENS]))
            self.pool.publish(self.table[len(self.digests) - 1], self.digests[-1])

    def fork(self, id: SequenceId, sampling: SamplingParams) -> tuple[Sequence, list[tuple[int, int]]]:
        """A second sequence with the same committed tokens: whole blocks are shared, a begun one is copied.

        Returns it with the slot copies (source, target) to make before the next step.
        """
        num_whole, num_begun = divmod(self.num_computed, BLOCK_TOKENS)
        begun = self.pool.allocate(1) if num_begun else []
        whole = [self.pool.share(block) for block in self.table[:num_whole]]
        copies = [(self.table[num_whole] * BLOCK_TOKENS + i, begun[0] * BLOCK_TOKENS + i) for i in range(num_begun)]
        other = Sequence(
            id=id,
            tenant=self.tenant,
            sampling=sampling,
            pool=self.pool,
            tokens=list(self.tokens),
            num_prompt=self.num_prompt,
            num_computed=self.num_computed,
            allowed=self.allowed,
            table=whole + begun,
            digests=list(self.digests),
        )
        return other, copies

    def release(self) -> None:
        """Gives back every block."""
        # Backwards: of a kept prefix the end is then the first to go, and what is left of it can still be found.
        self.pool.release(reversed(self.blocks))
        self.table, self.spare_blocks, self.free_spare_slots = [], [], []
        self.nodes, self.tip = [], ROOT
