"""The service by mode, in turn, over its real wire: `python -m benchmarks.service --help`.

    python -m benchmarks.service --target DIR --drafter DIR --drafter DIR2 --drafter prompt_lookup --prompts FILE.jsonl

The router runs in this process, verifier and drafters as processes of their own. Modes take turns, round by round, so
that what the machine does to one it does to all; ratios are medians over rounds. A mode may lack parts, to see what
they give: fleet-routing, fleet-fusion, fleet-run_ahead, fleet-budget. The tokens of all modes are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import yaml

from benchmarks.generation import Prompt, read_prompts
from contracts.errors import SpecfleetError, Unavailable
from router.front import FrontLimits
from router.modes import mode_parts
from router.server import Router, run_router
from router.timeline import Span
from specfleet.v1 import inference_pb2 as pb
from specfleet.v1 import inference_pb2_grpc, types_pb2
from workers.drafters.registry import KINDS

__all__ = ["main"]

_START_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one mode did in one round of turns."""

    mode: str
    together: int
    num_tokens: int
    elapsed_s: float
    first_token_s: float
    num_rounds: int
    router_s: float
    idle_share: float
    hidden_share: float
    tokens: tuple[tuple[int, ...], ...]

    @property
    def rate(self) -> float:
        return self.num_tokens / self.elapsed_s


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 when two modes disagree about a token, 2 for a request that can never work."""
    options = _parser().parse_args(arguments)
    options.mode = options.mode or ["off", "vanilla", "pearl", "fleet"]
    options.together = options.together or [1]
    try:
        prompts = read_prompts(options.prompts)[: options.num_prompts]
        for mode in options.mode:
            mode_parts(mode)
        turns = asyncio.run(_measure(options, prompts))
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print_table(turns, options.mode)
    if (wrong := _disagreeing(turns)) is not None:
        print(f"error: {wrong} gave other tokens than {options.mode[0]}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", required=True, metavar="DIR")
    parser.add_argument(
        "--drafter", action="append", default=[], metavar="KIND_OR_DIR", help="can be given several times"
    )
    parser.add_argument("--prompts", required=True, type=Path, metavar="FILE.jsonl")
    parser.add_argument("--num-prompts", type=int, default=16, metavar="N")
    parser.add_argument("--mode", action="append", metavar="MODE", help="default: off, vanilla, pearl, fleet")
    parser.add_argument("--together", type=int, action="append", metavar="N", help="requests at a time; default: 1")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each mode (default 3)")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N")
    parser.add_argument("--max-draft", type=int, default=8, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="of the verifier")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    return parser


async def _measure(options: argparse.Namespace, prompts: list[Prompt]) -> list[Turn]:
    turns: list[Turn] = []
    limits = FrontLimits(max_draft=options.max_draft, max_waiting=4096)
    names = [name if name in KINDS else Path(name).name for name in options.drafter]
    async with run_router("127.0.0.1:0", limits=limits, drafter_order=names) as router:
        with tempfile.TemporaryDirectory() as folder, _workers(options, names, router.port, Path(folder)):
            await _joined(router, names)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{router.port}") as channel:
                stub = inference_pb2_grpc.InferenceStub(channel)
                for together in options.together:
                    for number in range(options.rounds + 1):
                        for mode in options.mode:
                            router.front.limits = replace(limits, mode=mode)
                            turn = await _turn(router, stub, prompts, options, mode, together)
                            if number:  # the first is for warming up, and for the router to learn
                                turns.append(turn)
                                print(f"{mode} at {together}: {turn.rate:.1f} tokens/s", file=sys.stderr, flush=True)
    return turns


@contextlib.contextmanager
def _workers(options: argparse.Namespace, names: list[str], port: int, folder: Path) -> Iterator[None]:
    config: dict[str, Any] = {
        "engine": {"model": options.target, "dtype": options.dtype, "num_threads": options.threads},
        "drafters": {},
    }
    config["engine"]["kv_cache_bytes"] = "1GiB"
    for name, given in zip(names, options.drafter, strict=True):
        engine = {"model": given, "dtype": options.dtype, "num_threads": 1, "kv_cache_bytes": "256MiB"}
        config["drafters"][name] = {"kind": given} if given in KINDS else {"kind": "model", "engine": engine}
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump(config))
    common = ["--router", f"127.0.0.1:{port}", "--config", str(path)]
    commands = [["workers.verifier", *common], *(["workers.drafter", *common, "--name", name] for name in names)]
    log = (folder / "workers.log").open("wb")
    processes = [
        subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=subprocess.STDOUT) for command in commands
    ]
    try:
        yield
    except Unavailable:
        print((folder / "workers.log").read_text()[-2000:], file=sys.stderr)
        raise
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=20)
        log.close()


async def _joined(router: Router, names: Sequence[str]) -> None:
    wanted = {"verifier", *names}
    deadline_s = time.monotonic() + _START_S
    while not wanted <= router.fleet.streams.keys():
        if time.monotonic() > deadline_s:
            missing = sorted(wanted - router.fleet.streams.keys())
            raise Unavailable(f"{', '.join(missing)} did not join within {_START_S:.0f} s")
        await asyncio.sleep(0.05)


async def _turn(
    router: Router,
    stub: inference_pb2_grpc.InferenceStub,
    prompts: Sequence[Prompt],
    options: argparse.Namespace,
    mode: str,
    together: int,
) -> Turn:
    spans: list[Span] = []
    watching = asyncio.create_task(_collect(router.timeline.watch(), spans))
    await asyncio.sleep(0)
    figures, busy_s = router.scheduler.figures, router.loop.busy_s
    num_rounds, began_s = figures.num_rounds, time.perf_counter()
    room = asyncio.Semaphore(together)
    said = await asyncio.gather(*(_say(stub, prompt, options, room) for prompt in prompts))
    elapsed_s = time.perf_counter() - began_s
    await asyncio.sleep(0.05)  # the last spans
    watching.cancel()
    return Turn(
        mode=mode,
        together=together,
        num_tokens=sum(len(tokens) for tokens, _ in said),
        elapsed_s=elapsed_s,
        first_token_s=statistics.median(first_s for _, first_s in said),
        num_rounds=figures.num_rounds - num_rounds,
        router_s=router.loop.busy_s - busy_s,
        idle_share=_idle_share(spans),
        hidden_share=_hidden_share(spans),
        tokens=tuple(tokens for tokens, _ in said),
    )


async def _say(
    stub: inference_pb2_grpc.InferenceStub, prompt: Prompt, options: argparse.Namespace, room: asyncio.Semaphore
) -> tuple[tuple[int, ...], float]:
    request = pb.GenerateRequest(
        sampling=types_pb2.Sampling(temperature=options.temperature, seed=1),
        stop=pb.Stop(max_tokens=options.max_tokens),
    )
    if prompt.messages:
        request.chat.messages.extend(pb.Chat.Message(**message) for message in prompt.messages)
    else:
        request.prompt = prompt.prompt
    async with room:
        began_s, first_s = time.perf_counter(), 0.0
        tokens: list[int] = []
        async for response in stub.Generate(request):
            if response.HasField("tokens"):
                first_s = first_s or time.perf_counter() - began_s
                tokens += [token.token_id for token in response.tokens.tokens]
    return tuple(tokens), first_s


async def _collect(batches: AsyncIterator[list[Span]], spans: list[Span]) -> None:
    async for batch in batches:
        spans += batch


def _idle_share(spans: Sequence[Span]) -> float:
    """Part of the time from the first round to the last in which no round ran."""
    rounds = sorted((span.began_s, span.ended_s) for span in spans if span.name == "verify")
    if len(rounds) < 2:
        return 0.0
    return 1.0 - sum(ended - began for began, ended in rounds) / (rounds[-1][1] - rounds[0][0])


def _hidden_share(spans: Sequence[Span]) -> float:
    """Part of the drafting time that passed while a round ran."""
    rounds = sorted((span.began_s, span.ended_s) for span in spans if span.name == "verify")
    drafting = [(span.began_s, span.ended_s) for span in spans if span.name == "draft"]
    total = sum(ended - began for began, ended in drafting)
    hidden = sum(
        max(min(ended, round_ended) - max(began, round_began), 0.0)
        for began, ended in drafting
        for round_began, round_ended in rounds
    )
    return hidden / total if total > 0.0 else 0.0


def _disagreeing(turns: Sequence[Turn]) -> str | None:
    first = turns[0].tokens
    return next((turn.mode for turn in turns if turn.tokens != first), None)


def _print_table(turns: Sequence[Turn], modes: Sequence[str]) -> None:
    print("| requests | mode | tokens/s | times off | tokens a round | first token ms | router ms | idle | hidden |")
    print("|---|---|---|---|---|---|---|---|---|")
    for together in dict.fromkeys(turn.together for turn in turns):
        base = [turn.rate for turn in turns if (turn.mode, turn.together) == (modes[0], together)]
        for mode in modes:
            of = [turn for turn in turns if (turn.mode, turn.together) == (mode, together)]
            ratios = [turn.rate / other for turn, other in zip(of, base, strict=True)]
            rate, ratio = statistics.median(t.rate for t in of), statistics.median(ratios)
            print(
                f"| {together} | {mode} | {rate:.1f} | {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | "
                f"{statistics.median(t.num_tokens / t.num_rounds for t in of):.2f} | "
                f"{1e3 * statistics.median(t.first_token_s for t in of):.0f} | "
                f"{1e3 * statistics.median(t.router_s / t.num_rounds for t in of):.2f} | "
                f"{statistics.median(t.idle_share for t in of):.0%} | "
                f"{statistics.median(t.hidden_share for t in of):.0%} |"
            )


if __name__ == "__main__":
    sys.exit(main())
