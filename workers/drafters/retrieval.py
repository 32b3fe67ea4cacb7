"""Retrieval: what followed the text's last tokens in a store of documents (REST, arXiv 2311.08252).

The rule of REST: the longest suffix of the text that occurs in a datastore is found with a suffix array; what followed
it at all those places goes into a trie, whose counts say how often each continuation occurred; its best nodes are the
draft. Shorter suffixes are used when longer ones bring too little. Here places of a longer and of shorter suffixes
make a trie each, joined by `growth.blend`, and the tree is pruned to the nodes of highest value.

Documents are a tenant's own: its past answers, and what `remember` is given for it. An operator may add `public`
documents, which are read for all tenants and to which none of their texts is ever added.

Merging into a model drafter's tree, after RASD (arXiv 2503.03434), is in `graft.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from contracts.errors import InvalidArgument
from contracts.types import DrafterId, TenantId, TokenLogprob
from workers.drafters.growth import Grown, grow
from workers.drafters.memory import MAX_BYTES, MAX_TENANT_BYTES, Memory, MemoryDrafter
from workers.drafters.plain_data import integers, items, member
from workers.drafters.suffix_array import BYTES_PER_TOKEN, MAX_PATTERN
from workers.drafters.text import Text, check_tokens
from workers.drafters.text_store import TextStore
from workers.drafters.trie import Match, TrieNode, add_path, expand

__all__ = ["Retrieval", "RetrievalMemory"]

MAX_PLACES = 64
"""Places looked at for one suffix: enough to tell which continuation is more frequent, and bounded for suffixes that
occur everywhere."""
_PACKED_BYTES = 4  # of a token in a snapshot, at most: numbers under 2^20 without any order have 3.6 when packed


class RetrievalMemory(Memory):
    """The documents of one tenant, and those of everyone."""

    def __init__(
        self, *, vocab_size: int, max_bytes: int, max_depth: int, max_children: int, public: TextStore | None
    ) -> None:
        self.vocab_size = vocab_size
        self.max_depth = max_depth
        self.max_children = max_children
        self.public = public
        self.store = TextStore(max_bytes=max_bytes)

    @property
    def num_bytes(self) -> int:
        return self.store.num_bytes

    def read(self, text: Text) -> None:
        """Nothing: a prompt is looked up by `prompt_lookup`, and only answers are kept."""

    def learn(self, text: Text, first: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Nothing yet: a document is put in when it is complete."""

    def finish(self, text: Text) -> None:
        """The answer becomes a document, with the end of its prompt to be found by."""
        if len(text.tokens) > text.num_prompt:
            self.store.add(text.tokens[max(0, text.num_prompt - MAX_PATTERN) :].tolist())

    def tree(self, text: Text, num_nodes: int, below: tuple[int, ...]) -> list[Grown]:
        ending = text.tail(MAX_PATTERN, below)
        stores = [self.store] if self.public is None else [self.store, self.public]
        longest = max(store.longest_match(ending) for store in stores)
        matches: list[Match] = []
        length = longest
        while length > 0:
            matches.append((self._followed(stores, ending[len(ending) - length :]), float(length)))
            length //= 2
        return grow(
            tuple(matches), lambda found, _: expand(found, self.max_children), num_nodes, max_depth=self.max_depth
        )

    def _followed(self, stores: Sequence[TextStore], pattern: Sequence[int]) -> TrieNode:
        """What followed a stretch, by count. Of too many places every so many are looked at, in their sorted order,
        so that each continuation keeps its share."""
        root = TrieNode()
        for store in stores:
            places = store.find(pattern)
            step = max(1, -(-sum(len(place.ranks) for place in places) // MAX_PLACES))
            for place in places:
                for rank in place.ranks[::step]:
                    add_path(root, place.suffixes.continuation(rank, len(pattern), self.max_depth))
        return root

    def to_data(self) -> dict[str, object]:
        return {"documents": self.store.documents()}

    def to_data_within(self, max_bytes: int) -> dict[str, object]:
        """The newest documents."""
        return {"documents": self.store.newest(max_bytes // _PACKED_BYTES * BYTES_PER_TOKEN)}

    def merge(self, data: object) -> None:
        """Documents that are not here yet are added: merging the same snapshot twice changes nothing."""
        read = [
            integers(document, "a document", 0, self.vocab_size - 1, least=1)
            for document in items(member(data, "documents"), "documents")
        ]
        known = {tuple(document) for document in self.store.documents()}
        self.store.add_all([document for document in read if tuple(document) not in known])


class Retrieval(MemoryDrafter[RetrievalMemory]):
    """See the module."""

    kind: ClassVar[str] = "retrieval"

    def __init__(
        self,
        *,
        drafter: DrafterId,
        vocab_size: int,
        max_bytes: int = MAX_BYTES,
        max_tenant_bytes: int = MAX_TENANT_BYTES,
        max_depth: int = 10,
        max_children: int = 8,
        public: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__(drafter=drafter, vocab_size=vocab_size, max_bytes=max_bytes, max_tenant_bytes=max_tenant_bytes)
        if max_depth < 1 or max_children < 1:
            raise InvalidArgument(
                f"the retrieval drafter has max_depth={max_depth} and max_children={max_children}; each is 1 or more"
            )
        for document in public:
            check_tokens(document, vocab_size, "a public document")
        self.max_depth = max_depth
        self.max_children = max_children
        self._public: TextStore | None = None
        if public:
            self._public = TextStore(max_bytes=max_bytes)
            self._public.add_all(public)
            if sum(map(len, self._public.documents())) < sum(map(len, public)):
                raise InvalidArgument(f"the public documents do not fit into max_bytes={max_bytes}; leave some out")

    def remember(self, tenant: TenantId, documents: Sequence[Sequence[int]]) -> None:
        """Puts documents into a tenant's store."""
        for document in documents:
            check_tokens(document, self.vocab_size, "a document")
        memory = self._memory(tenant)
        memory.store.add_all(documents)
        self._keep(tenant, memory)

    def _new_memory(self) -> RetrievalMemory:
        return RetrievalMemory(
            vocab_size=self.vocab_size,
            max_bytes=self.max_tenant_bytes,
            max_depth=self.max_depth,
            max_children=self.max_children,
            public=self._public,
        )
