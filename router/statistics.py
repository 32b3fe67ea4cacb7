"""What speculation did for a request, as clients are told."""

from __future__ import annotations

from router.front import Choice, Request
from specfleet.v1 import inference_pb2

__all__ = ["request_statistics"]


def request_statistics(request: Request, choice: Choice) -> inference_pb2.SpeculationStatistics:
    """Of one choice. The mean acceptance length counts the target's own token of every round."""
    figures = choice.sequence.figures
    num_tokens = figures.num_accepted_tokens + figures.num_rounds
    return inference_pb2.SpeculationStatistics(
        mode=f"MODE_{request.mode.partition('-')[0].upper()}",
        num_rounds=figures.num_rounds,
        num_draft_tokens=figures.num_draft_tokens,
        num_accepted_tokens=figures.num_accepted_tokens,
        mean_acceptance_length=num_tokens / figures.num_rounds if figures.num_rounds else 0.0,
        acceptance_histogram=figures.rounds_by_accepted,
        accepted_by_drafter={str(drafter): count for drafter, count in figures.accepted_by_drafter.items()},
        time_to_first_token_s=max(choice.first_token_s - request.began_s, 0.0) if choice.first_token_s else 0.0,
        elapsed_s=max(choice.ended_s - request.began_s, 0.0),
    )
