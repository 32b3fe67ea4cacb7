"""An honest drafter may say all that it was asked for, however deep and however often it misses."""

from __future__ import annotations

from contracts.types import Epoch, SamplingParams, SequenceId, TenantId
from router.drafter_allowance import DrafterAllowance
from router.orders import DrafterOrders, Opened, TokensDecided, Wish
from specfleet.v1 import fleet_pb2

SEQUENCE, EPOCH = SequenceId("1"), Epoch(0)


def test_a_deep_chain_that_is_told_node_by_node_and_missed_each_time() -> None:
    allowance = DrafterAllowance()
    opened = Opened(
        sequence=SEQUENCE, epoch=EPOCH, tenant=TenantId("t"), tokens=(1,), num_prompt=1, sampling=SamplingParams()
    )
    wish = Wish(sequence=SEQUENCE, epoch=EPOCH, position=1, num_nodes=96, max_depth=64, run_ahead=True)
    allowance.grant(DrafterOrders(open=[opened], want=[wish]))
    node = fleet_pb2.DraftNode(token=5, parent=-1, confidence=0.99)
    chain = [
        fleet_pb2.Drafts(drafts=[fleet_pb2.Draft(sequence=1, below=[5] * depth, nodes=[node])]) for depth in range(64)
    ]
    missed = TokensDecided(sequence=SEQUENCE, epoch=EPOCH, position=1, tokens=(7,))
    for _ in range(100):
        assert all(map(allowance.spend, chain))
        allowance.grant(DrafterOrders(commit=[missed]))
