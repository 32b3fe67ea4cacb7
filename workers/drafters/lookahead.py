"""A trie of past answers: branches that were taken often are proposed again (Lookahead, arXiv 2312.12728).

The rule of the paper: every stretch of a few tokens of an answer is a branch of one trie, which counts how often each
was taken. A draft finds the last tokens of the text in the trie, longest first, and takes the sub-trie below them, the
most frequent branches first: several branches at once share their beginnings and become one tree. Counts fade and rare
branches are cut when the trie is full, so that it holds what is asked now.

Here a branch has `max_match` tokens to find it by and `max_depth` tokens to propose: one such window for each position
of an answer, put in as soon as it is complete. Each costs its length, whatever the size of the trie. The branches
found by shorter contexts are joined in by `growth.blend`. What a prompt holds is not put in: looking things up in
the prompt is the business of `prompt_lookup`, which needs no memory for it.

Counts fade: with each branch that is put in, one more counts a little more than one before, and twice as much after
`half_life` branches. Only ratios matter, so nothing old has to be touched (forward decay, Cormode et al., 2009). When
the trie is full, its lightest nodes are cut until a quarter is free. No stretch is heavier than its beginning, so what
is cut is cut with everything below it; and as a cut comes once in a quarter of the trie's size in new nodes, it costs
constant time each.
"""

from __future__ import annotations

from typing import ClassVar

from contracts.errors import InvalidArgument
from contracts.types import DrafterId, TokenLogprob
from workers.drafters.growth import Candidate, Grown, grow
from workers.drafters.memory import MAX_BYTES, MAX_TENANT_BYTES, Memory, MemoryDrafter
from workers.drafters.plain_data import integer, items, member, number
from workers.drafters.text import Text
from workers.drafters.trie import Match, TrieNode, add_path, expand, find

__all__ = ["Lookahead", "LookaheadMemory"]

NODE_BYTES = 330  # the node, a dict of one entry, its key: what most nodes are
_LARGEST_COUNT = 1e12  # of a snapshot, whose unit is one
_LARGEST_UNIT = 2.0**400  # far below the largest number, with room for counts above it


class LookaheadMemory(Memory):
    """The trie of one tenant."""

    def __init__(self, *, vocab_size: int, max_bytes: int, max_match: int, max_depth: int, max_children: int) -> None:
        self.vocab_size = vocab_size
        self.max_match = max_match
        self.max_depth = max_depth
        self.max_children = max_children
        self.max_nodes = max_bytes // NODE_BYTES
        self.half_life = max(1, self.max_nodes // 8)
        self._root = TrieNode()
        self._num_nodes = 0
        self._unit = 1.0
        """What one more counts now."""

    @property
    def num_bytes(self) -> int:
        return self._num_nodes * NODE_BYTES

    @property
    def window(self) -> int:
        """Tokens of a whole branch."""
        return self.max_match + self.max_depth

    def read(self, text: Text) -> None:
        """Nothing: only answers are remembered."""

    def learn(self, text: Text, first: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Puts in the windows that the new tokens complete."""
        earliest = max(
            text.num_prompt - self.max_match, 0
        )  # the first tokens of an answer are found by the prompt's end
        for last in range(first, len(text.tokens)):
            start = last + 1 - self.window
            if start >= earliest:
                self._add(text.tokens[start : last + 1].tolist())

    def finish(self, text: Text) -> None:
        """Puts in the windows that end with the text, which are shorter."""
        if len(text.tokens) == text.num_prompt:
            return
        earliest = max(text.num_prompt - self.max_match, len(text.tokens) + 1 - self.window, 0)
        for start in range(earliest, len(text.tokens)):
            self._add(text.tokens[start:].tolist())

    def tree(self, text: Text, num_nodes: int, below: tuple[int, ...]) -> list[Grown]:
        ending = text.tail(self.max_match, below)
        matches: list[Match] = []
        for length in range(len(ending), 0, -1):
            node = find(self._root, ending[len(ending) - length :])
            if node is not None:
                matches.append((node, float(length)))

        def followed(found: tuple[Match, ...], depth: int) -> list[Candidate[tuple[Match, ...]]]:
            return expand(found, self.max_children, self._unit)

        return grow(tuple(matches), followed, num_nodes, max_depth=self.max_depth)

    def _add(self, path: list[int]) -> None:
        self._num_nodes += add_path(self._root, path, self._unit)
        self._unit *= 2.0 ** (1.0 / self.half_life)
        if self._unit > _LARGEST_UNIT:
            _scale(self._root, 1.0 / self._unit)
            self._unit = 1.0
        self._make_room()

    def _make_room(self) -> None:
        if self._num_nodes > self.max_nodes:
            counts = sorted(_counts(self._root))
            num_to_cut = self._num_nodes - self.max_nodes * 3 // 4
            self._num_nodes -= _cut(self._root, counts[num_to_cut - 1])

    def to_data(self) -> dict[str, object]:
        return {"window": self.window, "branches": _branches(self._root, self._unit)}

    def merge(self, data: object) -> None:
        """Counts of the same branch are added: as long as nothing had to be cut, the order does not matter."""
        integer(member(data, "window"), "window", self.window, self.window)
        theirs = TrieNode()
        self._read(member(data, "branches"), theirs, 1)
        self._num_nodes += _unite(self._root, theirs, self._unit)
        self._make_room()

    def _read(self, branches: object, into: TrieNode, depth: int) -> None:
        """Branches are lists [token, count, branches below]."""
        left = into.count * (1.0 + 1e-6)  # what follows a stretch was taken no more often than the stretch
        for branch in items(branches, "branches", most=self.vocab_size if depth <= self.window else 0):
            token, count, below = items(branch, "a branch", least=3, most=3)
            found = integer(token, "a token", 0, self.vocab_size - 1)
            most = _LARGEST_COUNT if depth == 1 else min(left, _LARGEST_COUNT)
            child = TrieNode(count=number(count, "a count", 0.0, most))
            left -= child.count
            into.children = into.children or {}
            if found in into.children:
                raise InvalidArgument(f"snapshot has token {found} twice after the same tokens; each may appear once")
            into.children[found] = child
            self._read(below, child, depth + 1)


# As deep as a window is long, and no deeper: recursion is safe.


def _counts(node: TrieNode) -> list[float]:
    """Counts of all nodes below one."""
    found: list[float] = []
    for child in (node.children or {}).values():
        found.append(child.count)
        found += _counts(child)
    return found


def _scale(node: TrieNode, factor: float) -> None:
    for child in (node.children or {}).values():
        child.count *= factor
        _scale(child, factor)


def _cut(node: TrieNode, most: float) -> int:
    """Cuts all nodes below one that count no more than this; number of nodes that went."""
    num_cut = 0
    children = node.children or {}
    for token, child in list(children.items()):
        if child.count <= most:
            num_cut += 1 + len(_counts(child))
            del children[token]
        else:
            num_cut += _cut(child, most)
    node.children = children or None
    return num_cut


def _branches(node: TrieNode, unit: float) -> list[object]:
    return [[token, child.count / unit, _branches(child, unit)] for token, child in (node.children or {}).items()]


def _unite(mine: TrieNode, theirs: TrieNode, unit: float) -> int:
    """Adds counts; number of nodes that are new."""
    num_new = 0
    for token, other in (theirs.children or {}).items():
        mine.children = mine.children or {}
        child = mine.children.get(token)
        if child is None:
            child = mine.children[token] = TrieNode()
            num_new += 1
        child.count += other.count * unit
        num_new += _unite(child, other, unit)
    return num_new


class Lookahead(MemoryDrafter[LookaheadMemory]):
    """See the module."""

    kind: ClassVar[str] = "lookahead"

    def __init__(
        self,
        *,
        drafter: DrafterId,
        vocab_size: int,
        max_bytes: int = MAX_BYTES,
        max_tenant_bytes: int = MAX_TENANT_BYTES,
        max_match: int = 4,
        max_depth: int = 10,
        max_children: int = 8,
    ) -> None:
        super().__init__(drafter=drafter, vocab_size=vocab_size, max_bytes=max_bytes, max_tenant_bytes=max_tenant_bytes)
        if not 1 <= max_match <= 64 or not 1 <= max_depth <= 64 or max_children < 1:
            raise InvalidArgument(
                f"the lookahead drafter has max_match={max_match}, max_depth={max_depth}, max_children={max_children}; "
                "right are 1 to 64, 1 to 64, and 1 or more"
            )
        self.max_match = max_match
        self.max_depth = max_depth
        self.max_children = max_children

    def _new_memory(self) -> LookaheadMemory:
        return LookaheadMemory(
            vocab_size=self.vocab_size,
            max_bytes=self.max_tenant_bytes,
            max_match=self.max_match,
            max_depth=self.max_depth,
            max_children=self.max_children,
        )
