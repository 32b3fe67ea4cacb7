"""`specfleet chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from typing import Annotated

import typer

from specfleet.cli.explain import Explanation, summary
from specfleet.cli.options import DEFAULT_ADDRESS, Address, ApiKeyFile, Fleet, TlsOption
from specfleet.cli.reporting import error_line
from specfleet.cli.screen import notices, printable, screen
from specfleet.client import Client
from specfleet.errors import InvalidRequest, SpecfleetClientError
from specfleet.options import GenerateOptions

__all__ = ["chat"]

_HELP = "Ctrl-C stops an answer, Ctrl-D ends; /new begins a new conversation."


def chat(
    system: Annotated[str | None, typer.Option(help="What the model is told before the conversation.")] = None,
    max_tokens: Annotated[int, typer.Option(help="At most so many tokens an answer.")] = 512,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.0,
    mode: Annotated[str | None, typer.Option(help="off, vanilla, pearl or fleet; the text is the same.")] = None,
    model: Annotated[str | None, typer.Option(help="Which model, if the fleet has several.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Colour each token by who guessed it.")] = False,
    address: Address = DEFAULT_ADDRESS,
    api_key_file: ApiKeyFile = None,
    tls: TlsOption = None,
) -> None:
    """Talk with the model; every answer sees what was said before."""
    options: GenerateOptions = {"max_tokens": max_tokens, "temperature": temperature, "mode": mode, "model": model}
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with suppress(ImportError):
            import readline  # noqa: F401  # gives `input` its editing and its history of lines
        notices().print(_HELP, style="dim")
    with Client(**Fleet(address, api_key_file, tls).arguments()) as client:
        conversation = _Conversation(client, options, system, explain=explain)
        while (line := _read_line("> " if is_terminal else "")) is not None:
            if line.strip() == "/new":
                conversation.restart()
            elif line.strip():
                conversation.say(line)


def _read_line(prompt: str) -> str | None:
    """The next line; None at the end. Ctrl-C forgets what was typed."""
    while True:
        try:
            return input(prompt)
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"standard input is not {error.encoding.upper()} text") from None
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()


class _Conversation:
    """What was said. An answer that was stopped counts as far as it came; one that failed, not at all."""

    def __init__(self, client: Client, options: GenerateOptions, system: str | None, *, explain: bool) -> None:
        self._client, self._options, self._explain = client, options, explain
        self._beginning = [] if system is None else [{"role": "system", "content": system}]
        self._console = screen()
        self.restart()

    def restart(self) -> None:
        self._messages = list(self._beginning)

    def say(self, line: str) -> None:
        asked = [*self._messages, {"role": "user", "content": line}]
        try:
            answer = self._answer(asked)
        except SpecfleetClientError as error:
            notices().print(f"specfleet: {printable(error_line(error))}", style="red", soft_wrap=True)
        else:
            self._messages = [*asked, {"role": "assistant", "content": answer}]

    def _answer(self, messages: list[dict[str, str]]) -> str:
        explanation, pieces, last = Explanation(), [], None
        try:
            with closing(self._client.generate(messages, **self._options)) as events:
                for last in events:
                    pieces.append(last.text)
                    shown = explanation.show(last)
                    self._console.print(shown if self._explain else shown.plain, end="", soft_wrap=True)
        except KeyboardInterrupt:
            self._console = screen()  # the old one may have been stopped between writing a token and noting that it did
            self._console.print(" [stopped]", style="dim", end="")
        finally:
            self._console.print()
        if self._explain and last is not None and last.statistics is not None and last.usage is not None:
            explanation.legend(self._console)
            self._console.print(summary(last.statistics, last.usage.num_completion_tokens), style="dim")
        return "".join(pieces)
