"""A worker that is nothing but a worker."""

from __future__ import annotations

from specfleet.v1 import fleet_pb2
from tests.workers.router_side import Peer
from workers.inbox import Inbox
from workers.link import Arrival


class Echo:
    """A worker that answers every opening with a draft, and forgets what it saw when the stream is lost."""

    num_sequences = num_stale = 0

    def __init__(self, name: str = "echo") -> None:
        self.name = name
        self.hello = fleet_pb2.FromWorker(drafter_hello=fleet_pb2.DrafterHello(name=name))
        self.seen: list[int] = []

    def run(self, inbox: Inbox[Arrival]) -> None:
        while (arrivals := inbox.take()) is not None:
            for arrival in arrivals:
                if arrival.message is None:
                    self.seen.clear()
                    continue
                self.seen += [opening.sequence for opening in arrival.message.drafter_work.open]
                drafts = [fleet_pb2.Draft(sequence=number, below=self.seen[-1000:]) for number in self.seen]
                arrival.stream.send(fleet_pb2.FromWorker(drafts=fleet_pb2.Drafts(drafts=drafts)))


class Faulty(Echo):
    """Fails at the first message."""

    def run(self, inbox: Inbox[Arrival]) -> None:
        super().run(inbox) if inbox.take() is None else 1 / 0


async def echoed(peer: Peer, number: int) -> list[int]:
    opening = fleet_pb2.Opening(sequence=number)
    await peer.send(fleet_pb2.ToWorker(drafter_work=fleet_pb2.DrafterWork(open=[opening])))
    return [draft.sequence for draft in (await peer.hear()).drafts.drafts]
