"""One rank of a tensor-parallel group as a process of its own: rank 0 plays a script, the others follow."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from contracts.config import EngineConfig
from contracts.errors import InvalidArgument, RankLost
from contracts.types import ROOT, SamplingParams, SequenceId, TenantId, Verdict
from engine.engine import Engine
from engine.load import load_engine, load_follower
from engine.ranks import DistributedRanks
from engine.work import Draft, Drafted, Verify
from tests.engine.rig import GREEDY, random_tokens, random_tree, verify_of

LOST = 3
"""Exit status of a rank that lost its group."""

A, B = SequenceId("a"), SequenceId("b")
NOISY = SamplingParams(temperature=0.8, top_p=0.95, presence_penalty=0.4, seed=21, num_logprobs=3)
VOCAB_SIZE = 320


def run_rank(config: dict[str, Any], address: str, rank: int, script: str, pipe: Connection | None) -> None:
    """The life of one rank, from joining to goodbye."""
    torch.set_num_threads(1)
    parsed = EngineConfig.model_validate(config)
    try:
        ranks = DistributedRanks(
            address=address, rank=rank, size=parsed.tensor_parallel, deadline_s=parsed.step_deadline_s
        )
        if pipe is None:
            load_follower(parsed, ranks).run()
            return
        engine = load_engine(parsed, ranks=ranks).engine
        pipe.send(SCRIPTS[script](engine, pipe))
        if script not in LOSSES:
            engine.shut_down()
    except RankLost:
        sys.exit(LOST)


def join_and_stop(address: str) -> None:
    """A follower that listens once, by when all have joined, and never again."""
    ranks = DistributedRanks(address=address, rank=1, size=2, deadline_s=1.0)
    ranks.receive()
    os.kill(os.getpid(), signal.SIGSTOP)


def send_until_lost(address: str, pipe: Connection) -> None:
    """Rank 0 talking to it: how long the send took that failed."""
    ranks = DistributedRanks(address=address, rank=0, size=2, deadline_s=1.0)
    for _ in range(5):
        started_s = time.monotonic()
        try:
            ranks.send(b"a step")
        except RankLost:
            pipe.send(time.monotonic() - started_s)
            return


def decode(engine: Engine, pipe: Connection | None = None) -> dict[str, Any]:
    """Plain and verified decoding, greedy and noisy, and all logits of some rows; the same on any number of ranks."""
    rng = random.Random(0)
    prompts = {A: random_tokens(rng, 37), B: random_tokens(rng, 18)}
    engine.open(A, prompts[A], NOISY)
    engine.open(B, prompts[B], GREEDY)
    engine.step([Verify(sequence=A, num_pending=20), Verify(sequence=B)])
    logprobs: list[float] = []
    for _ in range(12):
        of_a, _ = engine.step([verify_of(A, random_tree(rng, 4, [])), verify_of(B, random_tree(rng, 3, []))]).outcomes
        assert isinstance(of_a, Verdict)
        logprobs += [found.logprob for found in of_a.logprobs]
    engine.open(SequenceId("c"), prompts[A], GREEDY)
    return {
        "tokens": (engine.tokens_of(A), engine.tokens_of(B)),
        "logprobs": logprobs,
        "logits": all_logits(engine, SequenceId("c")),
    }


def all_logits(engine: Engine, name: SequenceId, nodes: tuple[tuple[int, int], ...] = ()) -> list[list[float]]:
    """Whole rows of logits by their values alone: at temperature 0 a candidate's value is its logit."""
    outcome = engine.step([Draft(sequence=name, nodes=nodes)], num_top=VOCAB_SIZE).outcomes[0]
    assert isinstance(outcome, Drafted)
    rows = []
    for proposal in outcome.proposals:
        values = {candidate.token: candidate.value for candidate in proposal.candidates}
        rows.append([values[token] for token in range(VOCAB_SIZE)])
    return rows


def invariance(engine: Engine, pipe: Connection | None = None) -> dict[str, Any]:
    """Rows alone one at a time, and the same rows in chunks, trees and company."""
    prompt, path = random_tokens(random.Random(1), 21), [50, 60, 70]
    engine.open(A, prompt[:1], GREEDY)
    alone = []
    for token in [*prompt[1:], *path]:
        alone += all_logits(engine, A)
        engine.commit(A, [token])
    alone += all_logits(engine, A)
    engine.open(B, random_tokens(random.Random(2), 30), NOISY)
    engine.open(SequenceId("c"), prompt, GREEDY, tenant=TenantId("other"))  # so that nothing is shared
    work = [verify_of(B, [(9, ROOT)] * 3), Verify(sequence=SequenceId("c"), num_pending=13)]
    engine.step(work)
    engine.step([Draft(sequence=SequenceId("c"), num_pending=7)])
    together = all_logits(engine, SequenceId("c"), ((5, ROOT), (path[0], ROOT), (6, 1), (path[1], 1), (path[2], 3)))
    return {"alone": alone[-4:], "together": [together[i] for i in (0, 2, 4, 5)]}


class Drop:
    """A hook that drops the given rows, or answers nonsense."""

    def __init__(self, dropped: set[int], *, layers: tuple[int, ...] = (0, 1)) -> None:
        self.layers, self.dropped = layers, dropped

    def __call__(self, layer: int, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor | None:
        return torch.tensor([row not in self.dropped for row in rows.tolist()])


def hook(engine: Engine, pipe: Connection | None = None) -> dict[str, Any]:
    """Plain tokens; the same with drafts of which some are dropped; and a step given up in the middle."""
    prompt = random_tokens(random.Random(3), 9)
    engine.open(A, prompt, NOISY)
    while len(engine.tokens_of(A)) < 24:
        engine.step([Verify(sequence=A)])
    truth = list(engine.tokens_of(A))
    engine.open(B, prompt, NOISY)
    refused, num_pruned = "", 0
    while len(engine.tokens_of(B)) < 20:
        at, pending = len(engine.tokens_of(B)), engine.num_pending(B)
        work = verify_of(B, [(truth[at], ROOT), (truth[at + 1], 0), (truth[at + 2], 1)])
        try:
            engine.step([work], hook=Drop({pending - 1}))
        except InvalidArgument as error:
            refused = error.message
        num_pruned += engine.step([work], hook=Drop({pending + 1})).report.num_rows_pruned
    return {"plain": truth[:20], "pruned": list(engine.tokens_of(B))[:20], "refused": refused, "num_pruned": num_pruned}


class Pause:
    """A hook that tells the other end that the step is half done, and waits to go on."""

    layers: tuple[int, ...] = (0,)

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def __call__(self, layer: int, hidden: torch.Tensor, rows: torch.Tensor) -> None:
        meet(self._pipe)


def meet(pipe: Connection) -> None:
    pipe.send("ready")
    pipe.recv()


def lost_between_steps(engine: Engine, pipe: Connection) -> dict[str, Any]:
    engine.open(A, [9, 8, 7], GREEDY)
    engine.step([Verify(sequence=A)])
    meet(pipe)
    return until_lost(engine, None)


def lost_in_a_step(engine: Engine, pipe: Connection) -> dict[str, Any]:
    engine.open(A, [9, 8, 7], GREEDY)
    return until_lost(engine, Pause(pipe))


def until_lost(engine: Engine, pause: Pause | None) -> dict[str, Any]:
    """A step that must fail, and how long that took; the pause is over as soon as the rank is gone."""
    started_s = time.monotonic()
    try:
        engine.step([Verify(sequence=A)], hook=pause)
    except RankLost as error:
        return {"message": error.message, "elapsed_s": time.monotonic() - started_s}
    return {"message": "", "elapsed_s": time.monotonic() - started_s}


Script = Callable[[Engine, Connection], dict[str, Any]]
LOSSES: dict[str, Script] = {"lost between steps": lost_between_steps, "lost in a step": lost_in_a_step}
SCRIPTS: dict[str, Script] = {"decode": decode, "invariance": invariance, "hook": hook, **LOSSES}
