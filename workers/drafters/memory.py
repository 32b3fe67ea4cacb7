"""What a drafter remembers, one memory for each tenant, bounded in bytes.

Tenants never meet: a text reaches the memory of its own tenant only, and a tree is grown from that memory and the
sequence's own text only. There is nothing that two tenants share, so nothing has to be kept apart inside a kind.

Two bounds hold after every call: `max_tenant_bytes` for each tenant, kept by the memory itself, which knows what it can
do without; and `max_bytes` for all, kept by dropping whole memories, the one unused for longest first. A tenant that
floods its memory so loses its own oldest entries, and pushes out others only where the operator gave less than
max_bytes / max_tenant_bytes tenants room.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from contracts.errors import InvalidArgument, shown
from contracts.types import DrafterId, TenantId, TokenLogprob
from workers.drafters.growth import Grown
from workers.drafters.plain_data import integer, member
from workers.drafters.text import Text
from workers.drafters.text_drafter import TextDrafter

__all__ = ["MAX_BYTES", "MAX_TENANT_BYTES", "Memory", "MemoryDrafter"]

MAX_BYTES = 256 * 2**20
MAX_TENANT_BYTES = 32 * 2**20
_VERSION = 1


class Memory(ABC):
    """What one kind remembers of one tenant."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Estimated size, within a factor of two of what the interpreter uses; never above the tenant's bound."""

    @abstractmethod
    def read(self, text: Text) -> None:
        """A text was opened: learn from its prompt, where the kind does."""

    @abstractmethod
    def learn(self, text: Text, first: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Tokens from index `first` on were decided; `logprobs` is empty or has one entry for each of them."""

    def finish(self, text: Text) -> None:  # noqa: B027  # most kinds have learned everything by then
        """The text will not grow any more."""

    @abstractmethod
    def tree(self, text: Text, num_nodes: int, below: tuple[int, ...]) -> Sequence[Grown]:
        """At most `num_nodes` nodes, parents first. Changes nothing."""

    @abstractmethod
    def to_data(self) -> dict[str, object]:
        """Everything, as plain data."""

    def to_data_within(self, max_bytes: int) -> dict[str, object]:
        """What of it has about so many bytes at most when packed, where the kind can leave something out."""
        return self.to_data()

    @abstractmethod
    def merge(self, data: object) -> None:
        """Reads all of `data` first, then adds it; refuses with `InvalidArgument` and is then as it was."""


OfKind = TypeVar("OfKind", bound=Memory)


class MemoryDrafter(TextDrafter, Generic[OfKind]):
    """A `RememberingDrafter`: a kind is a subclass that says how to make a memory."""

    def __init__(
        self,
        *,
        drafter: DrafterId,
        vocab_size: int,
        max_bytes: int = MAX_BYTES,
        max_tenant_bytes: int = MAX_TENANT_BYTES,
    ) -> None:
        super().__init__(drafter=drafter, vocab_size=vocab_size)
        if not 2**12 <= max_tenant_bytes <= max_bytes:
            raise InvalidArgument(
                f"max_tenant_bytes is {max_tenant_bytes} and max_bytes {max_bytes}; right are at least 4096 bytes for "
                "a tenant, and at least as much for all"
            )
        self.max_bytes = max_bytes
        self.max_tenant_bytes = max_tenant_bytes
        self._memories: dict[TenantId, OfKind] = {}  # the one unused for longest first
        self._size_of: dict[TenantId, int] = {}
        self._num_bytes = 0
        self._tell_evicted: Callable[[TenantId], None] = lambda tenant: None

    @abstractmethod
    def _new_memory(self) -> OfKind:
        """An empty one, which keeps to `max_tenant_bytes`."""

    def forget(self, tenant: TenantId | None = None) -> None:
        for each in list(self._memories) if tenant is None else [tenant]:
            self._drop(each)

    def on_evicted(self, tell: Callable[[TenantId], None]) -> None:
        self._tell_evicted = tell

    def snapshot(self, tenant: TenantId, *, max_bytes: int | None = None) -> dict[str, object]:
        memory = self._memory(tenant)
        data = memory.to_data() if max_bytes is None else memory.to_data_within(max_bytes)
        return {"version": _VERSION, "kind": self.kind, "vocab_size": self.vocab_size, "memory": data}

    def restore(self, tenant: TenantId, snapshot: object) -> None:
        memory = self._new_memory()
        memory.merge(self._checked(snapshot))
        self._keep(tenant, memory)

    def prepared(self, tenant: TenantId, snapshot: object) -> Callable[[], None]:
        memory = self._new_memory()
        memory.merge(self._checked(snapshot))

        def adopt() -> None:
            if (newer := self._memories.get(tenant)) is not None:
                memory.merge(newer.to_data())
            self._keep(tenant, memory)

        return adopt

    def merge(self, tenant: TenantId, snapshot: object) -> None:
        data = self._checked(snapshot)
        memory = self._memory(tenant)
        memory.merge(data)
        self._keep(tenant, memory)

    def num_bytes(self, tenant: TenantId | None = None) -> int:
        return self._num_bytes if tenant is None else self._size_of.get(tenant, 0)

    def _opened(self, text: Text) -> None:
        memory = self._memory(text.tenant)
        memory.read(text)
        self._keep(text.tenant, memory)

    def _grew(self, text: Text, first: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        memory = self._memory(text.tenant)
        memory.learn(text, first, logprobs)
        self._keep(text.tenant, memory)

    def _tree(self, text: Text, num_nodes: int, below: tuple[int, ...]) -> Sequence[Grown]:
        return self._memory(text.tenant).tree(text, num_nodes, below)

    def _closed(self, text: Text) -> None:
        memory = self._memory(text.tenant)
        memory.finish(text)
        self._keep(text.tenant, memory)

    def _memory(self, tenant: TenantId) -> OfKind:
        memory = self._memories.get(tenant)
        return self._new_memory() if memory is None else memory

    def _keep(self, tenant: TenantId, memory: OfKind) -> None:
        """Makes it the tenant's memory and the one used last; drops others until all fit."""
        self._drop(tenant)
        self._memories[tenant] = memory
        self._size_of[tenant] = memory.num_bytes
        self._num_bytes += memory.num_bytes
        while self._num_bytes > self.max_bytes:
            oldest = next(iter(self._memories))
            self._drop(oldest)
            self._tell_evicted(oldest)

    def _drop(self, tenant: TenantId) -> None:
        self._memories.pop(tenant, None)
        self._num_bytes -= self._size_of.pop(tenant, 0)

    def _checked(self, snapshot: object) -> object:
        """The kind's own part of a snapshot that was meant for a drafter like this one."""
        integer(member(snapshot, "version"), "version", _VERSION, _VERSION)
        if (kind := member(snapshot, "kind")) != self.kind:
            raise InvalidArgument(f"snapshot is of kind {shown(kind)}; this drafter is of kind {self.kind!r}")
        integer(member(snapshot, "vocab_size"), "vocab_size", self.vocab_size, self.vocab_size)
        return member(snapshot, "memory")
