"""`specfleet generate`: one prompt, one answer, as it comes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from specfleet.cli.explain import Explanation, summary
from specfleet.cli.options import DEFAULT_ADDRESS, Address, ApiKeyFile, Fleet, TlsOption, decoded, read_text
from specfleet.cli.reporting import fail
from specfleet.cli.screen import printable, screen
from specfleet.client import Client
from specfleet.events import TokenEvent
from specfleet.options import GenerateOptions, Prompt

__all__ = ["generate"]


def generate(
    prompt: Annotated[str, typer.Argument(help="What to go on from; - reads it from standard input.")],
    max_tokens: Annotated[int, typer.Option(help="At most so many tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    mode: Annotated[str | None, typer.Option(help="off, vanilla, pearl or fleet; the text is the same.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Only the likeliest tokens of this joint probability.")] = None,
    top_k: Annotated[int, typer.Option(help="Only so many of the likeliest tokens; 0: all.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    json_schema: Annotated[Path | None, typer.Option(help="The answer is JSON that fits the schema here.")] = None,
    max_draft: Annotated[int | None, typer.Option(help="Most guesses that a round checks.")] = None,
    drafter: Annotated[list[str] | None, typer.Option(help="Only this drafter guesses; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(help="Which model, if the fleet has several.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a chat message.")] = False,
    deadline_s: Annotated[
        float | None, typer.Option("--deadline", help="The whole answer within so many seconds.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Colour each token by who guessed it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each token.")] = False,
    address: Address = DEFAULT_ADDRESS,
    api_key_file: ApiKeyFile = None,
    tls: TlsOption = None,
) -> None:
    """Generate text, and show it as it comes."""
    text = decoded(sys.stdin.buffer.read(), "standard input") if prompt == "-" else prompt
    asked: Prompt = [{"role": "user", "content": text}] if chat else text
    options: GenerateOptions = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "mode": mode,
        "top_p": top_p,
        "top_k": top_k,
        "stop": stop or (),
        "json_schema": None if json_schema is None else read_text(json_schema, "--json-schema"),
        "max_draft": max_draft,
        "drafters": drafter or (),
        "model": model,
        "deadline_s": deadline_s,
    }
    with (
        Client(**Fleet(address, api_key_file, tls).arguments()) as client,
        closing(client.generate(asked, **options)) as events,
    ):
        show = _show_json if as_json else _show_explained if explain else _show_text
        last = show(events)
    if last is not None and last.finish_reason in ("cancelled", "deadline"):
        fail(f"the answer is not whole: it ended by {last.finish_reason}", code=1)


def _show_text(events: Iterable[TokenEvent]) -> TokenEvent | None:
    """Nothing but the text; into a file or pipe exactly as it is."""
    is_terminal, last = sys.stdout.isatty(), None
    for last in events:
        sys.stdout.write(printable(last.text) if is_terminal else last.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return last


def _show_json(events: Iterable[TokenEvent]) -> TokenEvent | None:
    last = None
    for last in events:
        fields = asdict(last)
        del fields["received_s"]  # on no clock that a reader shares
        print(json.dumps(fields, ensure_ascii=False), flush=True)
    return last


def _show_explained(events: Iterable[TokenEvent]) -> TokenEvent | None:
    console, explanation, last = screen(), Explanation(), None
    for last in events:
        console.print(explanation.show(last), end="", soft_wrap=True)
    console.print("\n")
    explanation.legend(console)
    if last is not None and last.statistics is not None and last.usage is not None:
        console.print(summary(last.statistics, last.usage.num_completion_tokens), style="dim")
    return last
