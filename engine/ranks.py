"""What the ranks of one model say to each other. The only file that talks to torch.distributed.

Rank 0 decides what a step does and broadcasts it once; the others follow. Partial sums are gathered and added in the
order of the ranks on every rank alike, so that all hold the same bits whatever their number and whoever was first.
Every exchange has a deadline: a rank that died or hangs is an error, never a wait without end.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch._C._distributed_c10d import (
    BroadcastOptions,
    PrefixStore,
    ProcessGroupGloo,
    Store,
    Work,
)
from torch.distributed.rendezvous import rendezvous

from contracts.errors import RankLost, TopologyError

__all__ = ["DistributedRanks", "Ranks", "SingleRank"]

# A follower waits for its next step as long as there is nothing to do; a leader that dies closes the
# connection, which ends the wait at once.
_IDLE_WAIT_S = 365 * 24 * 3600.0
# Messages up to this size cross in one broadcast; longer ones in two.
_MESSAGE_BUFFER_BYTES = 16 * 1024
_LENGTH_BYTES = 8

_FROM_RANK_0 = BroadcastOptions()
_FROM_RANK_0.rootRank = 0


class Ranks(Protocol):
    """A group of ranks that work through the same steps."""

    rank: int
    size: int

    def join_sum(self, partial: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' partial results, added in rank order: [...] float32, the same bits everywhere."""
        ...

    def gather(self, mine: torch.Tensor) -> list[torch.Tensor]:
        """Everybody's tensor (one shape for all), in rank order."""
        ...

    def send(self, message: bytes) -> None:
        """Rank 0 tells all others."""
        ...

    def receive(self) -> bytes:
        """What rank 0 said next; waits as long as it takes."""
        ...

    def close(self) -> None:
        """Leaves the group."""
        ...


class SingleRank:
    """The group of one: nothing to join, nobody to tell."""

    rank = 0
    size = 1

    def join_sum(self, partial: torch.Tensor) -> torch.Tensor:
        return partial

    def gather(self, mine: torch.Tensor) -> list[torch.Tensor]:
        return [mine]

    def send(self, message: bytes) -> None:
        pass

    def receive(self) -> bytes:
        raise TopologyError("rank 0 of 1 has nobody to receive from")

    def close(self) -> None:
        pass


class DistributedRanks:
    """Ranks as processes: gloo for tensors on the CPU, NCCL for those on CUDA.

    `address` is any rendezvous that torch.distributed knows (tcp://host:port, file:///path). The process groups are
    objects of this one and not torch's global ones, so that a group that was lost leaves nothing behind, and the
    next can be formed in the same process.
    """

    def __init__(
        self,
        *,
        address: str,
        rank: int,
        size: int,
        deadline_s: float,
        start_deadline_s: float = 120.0,
        device: str = "cpu",
    ) -> None:
        self.rank, self.size, self.deadline_s = rank, size, deadline_s
        self._is_closed = False
        started_s = time.monotonic()
        try:
            start_deadline = datetime.timedelta(seconds=start_deadline_s)
            store, _, _ = next(rendezvous(address, rank=rank, world_size=size, timeout=start_deadline))
            store.set_timeout(start_deadline)
            self._steps = self._group("steps", store, deadline_s)
            # Sending ends only when all receive, and one that is stopped never does: rank 0 waits no longer than for a
            # step, while the others wait for work.
            self._idle = self._group("idle", store, deadline_s if rank == 0 else _IDLE_WAIT_S)
            self._device_steps = self._nccl_group(store) if device == "cuda" else self._steps
        except (RuntimeError, ValueError) as error:
            waited_s = time.monotonic() - started_s
            raise RankLost(
                f"rank {rank} could not join its group of {size} at {address} "
                f"within {waited_s:.3g} s: {_first_line(error)}",
                rank=None,
                waited_s=waited_s,
            ) from error

    def _group(self, name: str, store: Store, timeout_s: float) -> Any:  # torch's stubs leave out what it can do
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # torch's stubs leave it out
        options._timeout = datetime.timedelta(seconds=timeout_s)
        # Ranks share a machine. By default they would listen at whatever address its name stands for, to anyone.
        options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        return ProcessGroupGloo(PrefixStore(name, store), self.rank, self.size, options)

    def _nccl_group(self, store: Store) -> Any:
        try:
            from torch._C._distributed_c10d import ProcessGroupNCCL
        except ImportError as error:
            raise TopologyError(
                f"engine.device is cuda and engine.tensor_parallel is {self.size}, but this torch "
                f"({torch.__version__}) was built without NCCL; install torch for CUDA, or let "
                "engine.tensor_parallel be 1"
            ) from error
        options = ProcessGroupNCCL.Options()
        options._timeout = datetime.timedelta(seconds=self.deadline_s)
        return ProcessGroupNCCL(PrefixStore("device", store), self.rank, self.size, options)

    def join_sum(self, partial: torch.Tensor) -> torch.Tensor:
        parts = self.gather(partial)
        total = parts[0].clone()
        for part in parts[1:]:
            total += part
        return total

    def gather(self, mine: torch.Tensor) -> list[torch.Tensor]:
        parts = [torch.empty_like(mine, memory_format=torch.contiguous_format) for _ in range(self.size)]
        self._guarded(
            lambda: (self._device_steps if mine.is_cuda else self._steps).allgather([parts], [mine.contiguous()])
        )
        return parts

    def send(self, message: bytes) -> None:
        length = len(message).to_bytes(_LENGTH_BYTES, "little")
        head = (length + message)[:_MESSAGE_BUFFER_BYTES].ljust(_MESSAGE_BUFFER_BYTES, b"\0")
        self._guarded(lambda: self._idle.broadcast([_as_tensor(head)], _FROM_RANK_0))
        rest = message[_MESSAGE_BUFFER_BYTES - _LENGTH_BYTES :]
        if rest:
            self._guarded(lambda: self._steps.broadcast([_as_tensor(rest)], _FROM_RANK_0))

    def receive(self) -> bytes:
        buffer = torch.empty(_MESSAGE_BUFFER_BYTES, dtype=torch.uint8)
        self._guarded(lambda: self._idle.broadcast([buffer], _FROM_RANK_0))
        head = buffer.numpy().tobytes()
        length = int.from_bytes(head[:_LENGTH_BYTES], "little")
        message = head[_LENGTH_BYTES : _LENGTH_BYTES + length]
        if len(message) == length:
            return message
        rest = torch.empty(length - len(message), dtype=torch.uint8)
        self._guarded(lambda: self._steps.broadcast([rest], _FROM_RANK_0))
        return message + rest.numpy().tobytes()

    def close(self) -> None:
        # Dropping the groups closes their connections, which is what tells the others.
        if self._is_closed:
            return
        self._is_closed = True
        del self._steps, self._idle, self._device_steps

    def _guarded(self, exchange: Callable[[], Work]) -> None:
        if self._is_closed:
            raise RankLost(f"rank {self.rank} has left its group of {self.size}", rank=None, waited_s=0.0)
        started_s = time.monotonic()
        try:
            exchange().wait()
        except RuntimeError as error:  # gloo's own words for a closed connection or a passed deadline
            waited_s = time.monotonic() - started_s
            raise RankLost(
                f"rank {self.rank} lost touch with its group of {self.size} after {waited_s:.3g} s "
                f"(deadline {self.deadline_s:.3g} s): {_first_line(error)}",
                rank=None,
                waited_s=waited_s,
            ) from error


def _as_tensor(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
