"""The sequences that wait, in an order that is fair between tenants: start-time fair queueing.

Each tenant has a queue of its own, by priority and then by arrival; whose first goes next is decided by how much each
tenant was given so far. What a sequence costs is what the cache has to reserve for it. A tenant that comes back after a
pause begins where the others are: it has saved up nothing, and owes nothing. So a tenant that floods the queue waits
longer itself, and another's request goes next whenever it had less than its share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from contracts.types import SequenceId, TenantId
from router.sequence import RoutedSequence

__all__ = ["FairQueue"]


class FairQueue:
    """See the module. With one tenant it is a queue by priority."""

    def __init__(self, weight_of: Callable[[TenantId], int] = lambda tenant: 1) -> None:
        self.weight_of = weight_of
        self._queues: dict[TenantId, list[RoutedSequence]] = {}
        self._given: dict[TenantId, float] = {}
        self._now = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[RoutedSequence]:
        """All of them, in no order between tenants."""
        for queue in self._queues.values():
            yield from queue

    def push(self, sequence: RoutedSequence) -> None:
        """Behind those of its tenant that are as urgent."""
        tenant = sequence.tenant
        if tenant not in self._queues:
            self._queues[tenant] = []
            self._given[tenant] = max(self._given.get(tenant, 0.0), self._now)
        queue = self._queues[tenant]
        place = len(queue)
        while place and queue[place - 1].priority < sequence.priority:
            place -= 1
        queue.insert(place, sequence)

    def first(self) -> RoutedSequence:
        """The one to go next."""
        return self._queues[self._next()][0]

    def pop(self) -> RoutedSequence:
        """Takes that one out, and counts what its tenant is given."""
        tenant = self._next()
        sequence = self._queues[tenant].pop(0)
        self._now = self._given[tenant]
        self._given[tenant] += (sequence.num_prompt + sequence.max_tokens) / self.weight_of(tenant)
        self._forget()
        return sequence

    def discard(self, sequence: SequenceId) -> None:
        """It does not wait any more."""
        for queue in self._queues.values():
            queue[:] = [other for other in queue if other.id != sequence]
        self._forget()

    def _next(self) -> TenantId:
        return min(self._queues, key=lambda tenant: self._given[tenant])

    def _forget(self) -> None:
        """Tenants without sequences leave; those that had more than the others are remembered until that has passed."""
        for tenant in [tenant for tenant, queue in self._queues.items() if not queue]:
            del self._queues[tenant]
        self._given = {
            tenant: given for tenant, given in self._given.items() if tenant in self._queues or given > self._now
        }
