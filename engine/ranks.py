"""What the ranks of one model say to each other. The only file that talks to torch.distributed.

Rank 0 decides what a step does and broadcasts it once; the others follow. Partial sums are gathered and added in the
order of the ranks on every rank alike, so that all hold the same bits whatever their number and whoever was first.
Every exchange has a deadline: a rank that died or hangs is an error, never a wait without end.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist

from contracts.errors import RankLost, TopologyError

__all__ = ["DistributedRanks", "Ranks", "SingleRank"]

# A follower waits for its next step as long as there is nothing to do; a leader that dies closes the
# connection, which ends the wait at once.
_IDLE_WAIT_S = 365 * 24 * 3600.0
# Messages up to this size cross in one broadcast; longer ones in two.
_MESSAGE_BUFFER_BYTES = 16 * 1024
_LENGTH_BYTES = 8

Result = TypeVar("Result")


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
    """Ranks as processes joined by torch.distributed: gloo on CPU, NCCL for tensors on CUDA.

    `address` is any rendezvous that torch.distributed knows (tcp://host:port, file:///path).
    """

    def __init__(
        self, *, address: str, rank: int, size: int, deadline_s: float, start_deadline_s: float = 120.0
    ) -> None:
        self.rank, self.size, self.deadline_s = rank, size, deadline_s
        started_s = time.monotonic()
        try:
            dist.init_process_group(
                "gloo",
                init_method=address,
                rank=rank,
                world_size=size,
                timeout=datetime.timedelta(seconds=start_deadline_s),
            )
            everyone = list(range(size))
            self._steps = dist.new_group(everyone, timeout=datetime.timedelta(seconds=deadline_s), backend="gloo")
            # Sending ends only when all receive, and one that is stopped never does: rank 0 waits no longer than for a
            # step, while the others wait for work.
            idle_s = deadline_s if rank == 0 else _IDLE_WAIT_S
            self._idle = dist.new_group(everyone, timeout=datetime.timedelta(seconds=idle_s), backend="gloo")
        except (RuntimeError, ValueError) as error:
            waited_s = time.monotonic() - started_s
            raise RankLost(
                f"rank {rank} could not join its group of {size} at {address} "
                f"within {waited_s:.3g} s: {_first_line(error)}",
                rank=None,
                waited_s=waited_s,
            ) from error

    def join_sum(self, partial: torch.Tensor) -> torch.Tensor:
        parts = self.gather(partial)
        total = parts[0].clone()
        for part in parts[1:]:
            total += part
        return total

    def gather(self, mine: torch.Tensor) -> list[torch.Tensor]:
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        self._guarded(lambda: dist.all_gather(parts, mine.contiguous(), group=self._steps))
        return parts

    def send(self, message: bytes) -> None:
        length = len(message).to_bytes(_LENGTH_BYTES, "little")
        head = (length + message)[:_MESSAGE_BUFFER_BYTES].ljust(_MESSAGE_BUFFER_BYTES, b"\0")
        self._guarded(lambda: dist.broadcast(_as_tensor(head), src=0, group=self._idle))
        rest = message[_MESSAGE_BUFFER_BYTES - _LENGTH_BYTES :]
        if rest:
            self._guarded(lambda: dist.broadcast(_as_tensor(rest), src=0, group=self._steps))

    def receive(self) -> bytes:
        buffer = torch.empty(_MESSAGE_BUFFER_BYTES, dtype=torch.uint8)
        self._guarded(lambda: dist.broadcast(buffer, src=0, group=self._idle))
        head = buffer.numpy().tobytes()
        length = int.from_bytes(head[:_LENGTH_BYTES], "little")
        message = head[_LENGTH_BYTES : _LENGTH_BYTES + length]
        if len(message) == length:
            return message
        rest = torch.empty(length - len(message), dtype=torch.uint8)
        self._guarded(lambda: dist.broadcast(rest, src=0, group=self._steps))
        return message + rest.numpy().tobytes()

    def close(self) -> None:
        dist.destroy_process_group()

    def _guarded(self, exchange: Callable[[], Result]) -> Result:
        started_s = time.monotonic()
        try:
            return exchange()
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
