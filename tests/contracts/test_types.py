"""The values that rooms hand each other keep their own rules."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.errors import InvalidArgument
from contracts.types import (
    ROOT,
    DrafterId,
    DraftNode,
    Epoch,
    Feedback,
    ModelIdentity,
    SequenceId,
    TokenLogprob,
    Verdict,
)


def verdict(**changes: Any) -> Verdict:
    values: dict[str, Any] = {
        "sequence": SequenceId("s-1"),
        "epoch": Epoch(0),
        "position": 10,
        "accepted": (0, 2),
        "tokens": (5, 6, 7),
    }
    return Verdict(**{**values, **changes})


def test_a_verdict_has_one_token_more_than_accepted_nodes() -> None:
    assert verdict().next_position == 13
    assert verdict(accepted=(), tokens=(7,)).next_position == 11
    for accepted, tokens in [((0, 2), (5, 6)), ((), ()), ((), (1, 2))]:
        with pytest.raises(InvalidArgument, match=f"{len(tokens)} tokens and {len(accepted)} accepted"):
            verdict(accepted=accepted, tokens=tokens)


def test_a_verdict_has_logprobs_for_all_tokens_or_none() -> None:
    entries = tuple(TokenLogprob(token=token, logprob=-0.5) for token in (5, 6, 7))
    assert verdict(logprobs=entries).logprobs == entries
    with pytest.raises(InvalidArgument, match="2 logprobs for 3 tokens"):
        verdict(logprobs=entries[:2])


def test_a_verdict_is_not_before_the_sequence() -> None:
    with pytest.raises(InvalidArgument, match="position -1"):
        verdict(position=-1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("token", -1), ("parent", -2), ("confidence", -0.01), ("confidence", 1.01), ("confidence", float("nan"))],
)
def test_a_draft_node_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    right: dict[str, Any] = {"token": 3, "parent": ROOT, "confidence": 0.5, "drafter": DrafterId("d")}
    assert DraftNode(**right).parent == ROOT
    with pytest.raises(InvalidArgument, match=f"{field} is {value}"):
        DraftNode(**{**right, field: value})


def test_feedback_is_evidence_only_where_the_target_chose() -> None:
    assert Feedback(parent_accepted=True, chosen=False).was_tested
    assert Feedback(parent_accepted=True, chosen=True, target_logprob=-0.1).was_tested
    assert not Feedback(parent_accepted=False, chosen=False).was_tested
    assert not Feedback(parent_accepted=True, chosen=False, pruned=True).was_tested
    for impossible in ({"parent_accepted": False}, {"parent_accepted": True, "pruned": True}):
        with pytest.raises(InvalidArgument, match="a chosen node"):
            Feedback(chosen=True, **impossible)


def test_models_share_a_tokenizer_by_digest_alone() -> None:
    def model(name: str, vocab_size: int, tokenizer_digest: str) -> ModelIdentity:
        return ModelIdentity(
            name=name,
            architecture="llama",
            vocab_size=vocab_size,
            tokenizer_digest=tokenizer_digest,
            weights_digest=name,
            dtype="bfloat16",
            num_parameters=1,
        )

    target = model("target", 8192, "abc")
    assert target.same_tokenizer(model("padded drafter", 8256, "abc"))
    assert not target.same_tokenizer(model("stranger", 8192, "abd"))
