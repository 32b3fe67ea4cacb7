"""What the journal costs the router: CPU time of its process for each round, and how far behind the store is.

    python -m benchmarks.journal --model models/demo/target --store redis://127.0.0.1:6379

Rounds of the given size are said to a recorder at the given pace; nothing else runs in the process. `touch` is what the
scheduling loop itself pays between two rounds, `all` includes encoding, sending and what the client library does.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from contracts.clock import SystemClock
from contracts.config import StoreConfig
from contracts.types import DrafterId, ModelIdentity, RequestId, SamplingParams, SequenceId, StopParams, TenantId
from engine.text.tokenizer import Tokenizer
from router.answer import Answer
from router.asked import Asked, Speculation
from router.journal.leadership import Leadership
from router.journal.opening import open_journal
from router.journal.recorder import Recorder
from router.journal.records import Accepted
from router.modes import mode_parts
from router.request import Choice, Request
from router.sequence import RoutedSequence
from speculation.roster import Roster

__all__ = ["main"]

_TENANT = TenantId("")
_PROMPT = (1,) * 64
_MODEL = ModelIdentity(
    name="", architecture="", vocab_size=1, tokenizer_digest="", weights_digest="", dtype="", num_parameters=0
)


def main() -> None:
    """Prints a line for each number of requests."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.journal", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder with a tokenizer")
    parser.add_argument("--store", required=True, help="a store that may be written to")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tokens", type=int, default=3, help="that a round decides of each request (default 3)")
    parser.add_argument("--round-ms", type=float, default=20.0, help="time between two rounds (default 20)")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    print("requests  touch us/round  all us/round  written after the last round, ms")
    for num_requests in options.requests:
        asyncio.run(_measure(options, num_requests))


async def _measure(options: argparse.Namespace, num_requests: int) -> None:
    clock, tokenizer = SystemClock(), Tokenizer.load(options.model)
    config = StoreConfig(url=options.store, namespace=f"benchmark-{num_requests}", keep_s=1.0)
    async with open_journal(config, clock) as journal:
        leadership = Leadership(journal, lease_s=60.0)
        if not await leadership.attempt():
            raise SystemExit("another benchmark uses this store; wait for its end")
        recorder = Recorder(journal, leadership, config, clock)
        requests = [_request(tokenizer, number, options) for number in range(num_requests)]
        for request in requests:
            accepted = _accepted(request, options)
            await recorder.accept(accepted)
            recorder.follow(request, accepted, is_written=True)
        await recorder.flush()
        writing = asyncio.create_task(recorder.run())
        said_s = touch_s = 0.0
        began_s = time.process_time()
        for _ in range(options.rounds):
            said_s += _say(requests, options.tokens)
            touch_s += _touch(requests, recorder)
            await clock.sleep(1e-3 * options.round_ms)
        all_s = time.process_time() - began_s - said_s
        last_s = clock.now_s()
        _say(requests, 1)
        _touch(requests, recorder)
        await recorder.flush()
        behind_s = clock.now_s() - last_s
        writing.cancel()
        await leadership.resign()
    of = 1e6 / options.rounds
    print(f"{num_requests:8d}{touch_s * of:16.1f}{all_s * of:14.0f}{1e3 * behind_s:12.1f}", flush=True)


def _say(requests: list[Request], num_tokens: int) -> float:
    """What happens without a journal, too."""
    began_s = time.process_time()
    for request in requests:
        request.choices[0].answer.take([5] * num_tokens, [DrafterId("one")] * num_tokens, ())
    return time.process_time() - began_s


def _touch(requests: list[Request], recorder: Recorder) -> float:
    began_s = time.process_time()
    for request in requests:
        recorder.touched(request)
    return time.process_time() - began_s


def _request(tokenizer: Tokenizer, number: int, options: argparse.Namespace) -> Request:
    stop = StopParams(max_tokens=options.rounds * options.tokens + 2)
    answer = Answer(tokenizer, _PROMPT, stop, end_tokens=frozenset())
    sequence = RoutedSequence(
        id=SequenceId(str(number)),
        tenant=_TENANT,
        tokens=list(_PROMPT),
        num_prompt=len(_PROMPT),
        max_tokens=stop.max_tokens,
        sampling=SamplingParams(),
        parts=mode_parts("off"),
        max_draft=1,
        drafting=Roster().open(_TENANT, _PROMPT, temperature=0.0),
        output=answer,
    )
    return Request(
        id=RequestId(f"{time.time_ns()}-{number}"),
        tenant=_TENANT,
        mode="off",
        model="",
        seed=0,
        num_prompt_tokens=len(_PROMPT),
        choices=[Choice(sequence=sequence, answer=answer)],
        began_s=0.0,
    )


def _accepted(request: Request, options: argparse.Namespace) -> Accepted:
    asked = Asked(
        prompt=_PROMPT,
        sampling=SamplingParams(),
        stop=StopParams(max_tokens=options.rounds * options.tokens + 2),
        seed=0,
        request_id=request.id,
        speculation=Speculation(mode="off"),
    )
    return Accepted(asked=asked, prompt=_PROMPT, model=_MODEL, accepted_s=time.time())


if __name__ == "__main__":
    main()
