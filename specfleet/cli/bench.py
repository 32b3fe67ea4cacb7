"""`specfleet bench`: speed as clients see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from specfleet.async_client import AsyncClient
from specfleet.cli.load import Load, percentile, run_load
from specfleet.cli.options import DEFAULT_ADDRESS, Address, ApiKeyFile, Fleet, TlsOption, read_text
from specfleet.cli.reporting import fail
from specfleet.cli.screen import duration, notices, percent, screen, table
from specfleet.errors import InvalidRequest
from specfleet.options import MODES, GenerateOptions

__all__ = ["bench"]

_PROMPTS = (
    "The lighthouse keeper opened the door and",
    "def fibonacci(n):\n    ",
    "To make bread you need flour, water,",
    "The three laws of motion say that",
    "SELECT name, price FROM products WHERE",
    "Dear Sir or Madam,\nI am writing to",
    "Once upon a time, in a town by the sea,",
    '{"name": "Ada", "age": 36, "languages": [',
    "The difference between a virus and a bacterium is",
    "In 1492, three ships sailed from",
)
_SHARES = (0.5, 0.9, 0.99)


def bench(
    num_prompts: Annotated[int, typer.Option("--num-prompts", "-n", min=1, help="How many requests a mode.")] = 16,
    prompts: Annotated[
        Path | None, typer.Option(help='A file with a prompt a line; .jsonl: objects with a "prompt".')
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, help="So many at once.")] = 1,
    mode: Annotated[
        list[str] | None, typer.Option(help="off, vanilla, pearl or fleet; repeat it to compare. None: the fleet's.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="At most so many tokens an answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The same for every request.")] = 0,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Answers of full length only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as one JSON object.")] = False,
    address: Address = DEFAULT_ADDRESS,
    api_key_file: ApiKeyFile = None,
    tls: TlsOption = None,
) -> None:
    """Measure speed as clients see it.

    Tokens per second, time to the first token and between tokens, tokens per round. Several modes are compared, and
    must give the same tokens. All prompts are asked once before, so a fleet that caches prompts has read them.
    """
    modes = mode or [""]
    if unknown := set(modes) - {*MODES, ""}:
        raise InvalidRequest(f"mode is {min(unknown)!r}; it is one of {', '.join(MODES)}")
    asked = list(islice(cycle(_PROMPTS if prompts is None else _read_prompts(prompts)), num_prompts))
    options: GenerateOptions = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "ignore_eos": ignore_eos,
    }
    loads = asyncio.run(_measure(Fleet(address, api_key_file, tls), asked, modes, options, concurrency))
    if as_json:
        print(json.dumps({name or "default": _figures(load) for name, load in loads.items()}))
    else:
        _show(loads, concurrency)
    if different := _differences(loads):
        fail(f"modes gave different tokens for {different} of {num_prompts} prompts; they must not", code=1)


def _read_prompts(file: Path) -> list[str]:
    lines = [line.removesuffix("\r") for line in read_text(file, "--prompts").split("\n") if line.strip()]
    if not lines:
        raise InvalidRequest(f"--prompts: {file} is empty; give a prompt a line")
    if file.suffix != ".jsonl":
        return lines
    try:
        return [_prompt(line) for line in lines]
    except (ValueError, TypeError, KeyError):
        raise InvalidRequest(f'--prompts: {file} has a line that is no JSON object with a text as "prompt"') from None


def _prompt(line: str) -> str:
    prompt = json.loads(line)["prompt"]
    if not isinstance(prompt, str):
        raise TypeError
    return prompt


async def _measure(
    fleet: Fleet, prompts: Sequence[str], modes: Sequence[str], options: GenerateOptions, concurrency: int
) -> dict[str, Load]:
    """One mode after the other. Before the first all prompts are asked in each, which is not measured: else one would
    find in a cache what another had to read."""
    loads = {}
    ways: dict[str, GenerateOptions] = {mode: {**options, "mode": mode or None} for mode in modes}
    once = list(dict.fromkeys(prompts))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with AsyncClient(**fleet.arguments()) as client:
        console = notices()
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

            async def load(what: str, asked: Sequence[str], way: GenerateOptions) -> Load:
                bar = progress.add_task(what, total=len(asked))
                return await run_load(
                    client, asked, way, concurrency=concurrency, on_answer=lambda: progress.advance(bar)
                )

            for way in ways.values():
                await load("warming up", once, way)
            for mode, way in ways.items():
                loads[mode] = await load(mode or "fleet's default mode", prompts, way)
    return loads


def _figures(load: Load) -> dict[str, Any]:
    first = [answer.first_token_s for answer in load.answers]
    between = [answer.token_s for answer in load.answers if answer.token_s is not None]
    return {
        "num_requests": len(load.answers),
        "num_tokens": load.num_tokens,
        "elapsed_s": load.elapsed_s,
        "tokens_per_s": load.tokens_per_s,
        "tokens_per_round": load.tokens_per_round,
        "first_token_s": {f"p{100 * share:.0f}": percentile(first, share) for share in _SHARES},
        "token_s": {f"p{100 * share:.0f}": percentile(between, share) for share in _SHARES} if between else None,
        "acceptance": _acceptance(load),
    }


def _acceptance(load: Load) -> float | None:
    num_draft_tokens = sum(answer.num_draft_tokens for answer in load.answers)
    return sum(answer.num_accepted_tokens for answer in load.answers) / num_draft_tokens if num_draft_tokens else None


def _show(loads: Mapping[str, Load], concurrency: int) -> None:
    columns = (
        "mode",
        "tokens/s",
        "tokens/round",
        "accepted",
        "first token p50",
        "p90",
        "p99",
        "per token p50",
        "p90",
        "p99",
    )
    rows = table(*columns, numbers=frozenset(columns[1:]))
    for name, load in loads.items():
        figures = _figures(load)
        acceptance = figures["acceptance"]
        rows.add_row(
            name or "default",
            f"{load.tokens_per_s:.1f}",
            f"{load.tokens_per_round:.2f}",
            "-" if acceptance is None else percent(acceptance),
            *(duration(value) for value in figures["first_token_s"].values()),
            *([duration(value) for value in figures["token_s"].values()] if figures["token_s"] else ["-"] * 3),
        )
    console, any_load = screen(), next(iter(loads.values()))
    console.print(rows)
    console.print(f"{len(any_load.answers)} requests a mode, {concurrency} at once, {any_load.num_tokens} tokens")
    if len(loads) > 1 and not _differences(loads):
        console.print("the same tokens in all modes")


def _differences(loads: Mapping[str, Load]) -> int:
    """For how many prompts the modes disagree."""
    by_prompt = zip(*(load.answers for load in loads.values()), strict=True)
    return sum(len({answer.token_ids for answer in answers}) > 1 for answers in by_prompt)
