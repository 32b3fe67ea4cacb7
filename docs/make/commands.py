"""What the commands take, as Markdown: read from the commands themselves."""

from __future__ import annotations

import argparse
import importlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

import typer.main

from specfleet.cli.app import app

__all__ = ["processes", "specfleet_commands"]

_HEAD = "| option | default | meaning |\n|---|---|---|\n"
_COMMON = ("--address", "--api-key-file", "--tls")
_PROCESSES = {
    "cluster": "cluster.__main__",
    "router": "router.__main__",
    "workers.verifier": "workers.verifier.__main__",
    "workers.drafter": "workers.drafter",
}


def specfleet_commands() -> str:
    """The program `specfleet`: first what most of its commands share, then each."""
    group = typer.main.get_command(app)
    commands = list(_leaves(group, "specfleet"))
    shared = {flag: option for _, each in commands for option in _options(each) if (flag := option.opts[0]) in _COMMON}
    rows = "".join(_option_row(shared[flag]) for flag in _COMMON)
    head = f"Commands that talk to a fleet take these too:\n\n{_HEAD}{rows}"
    return "\n".join([head, *(part for name, command in commands for part in _command(name, command))])


def processes() -> str:
    """The programs that are a part of a fleet, started with `python -m`."""
    return "\n".join(part for name, module in _PROCESSES.items() for part in _process(name, _parser_of(module)))


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for each, below in inner.items():
        yield from _leaves(below, f"{name} {each}")


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = list(_options(command))
    own = [option for option in options if option.opts[0] not in _COMMON]
    usage = " ".join([name, *(str(each.name).upper() for each in arguments)])
    yield f"### {name}\n"
    yield f"`{usage}`\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    if arguments or own:
        yield _HEAD + "".join(map(_argument_row, arguments)) + "".join(map(_option_row, own))
    if len(own) < len(options):
        yield "And the options that are shared.\n"


def _options(command: Any) -> Iterator[Any]:
    yield from (each for each in command.params if each.param_type_name == "option" and each.name != "help")


def _argument_row(argument: Any) -> str:
    default = "**required**" if argument.required else _shown(argument.default)
    return f"| {str(argument.name).upper()} | {default} | {_help(argument)} |\n"


def _option_row(option: Any) -> str:
    flags = ", ".join(f"`{flag}`" for flag in option.opts)
    variable = f" Or `{option.envvar}`." if option.envvar else ""
    default = "**required**" if option.required else _shown(option.default)
    return f"| {flags} | {default} | {_help(option)}{variable} |\n"


def _help(parameter: Any) -> str:
    return " ".join(str(getattr(parameter, "help", "") or "").split()).replace("|", "\\|")


def _shown(default: object) -> str:
    return f"`{default}`" if default not in (None, False, (), "") else ""


class _Caught(BaseException):
    """Carries a parser out of the program that made it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _parser_of(module: str) -> argparse.ArgumentParser:
    def catch(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Caught(parser)

    with patch.object(argparse.ArgumentParser, "parse_args", catch):
        try:
            importlib.import_module(module).main()
        except _Caught as caught:
            return caught.parser
    raise LookupError(f"{module}.main() parses no arguments")


def _process(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"### {parser.prog}\n"
    yield f"{parser.description}\n"
    actions = parser._actions
    inner = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    yield from _table(parser, [action for action in actions if action not in inner])
    for action in inner:
        helps = {choice.dest: choice.help for choice in action._choices_actions}
        for command, below in action.choices.items():
            yield f"`python -m {name} {command}`: {helps[command]}.\n"
            yield from _table(below, below._actions)


def _table(parser: argparse.ArgumentParser, actions: Sequence[argparse.Action]) -> Iterator[str]:
    rows = [_action_row(parser, action) for action in actions if not isinstance(action, argparse._HelpAction)]
    if rows:
        yield _HEAD + "".join(rows)


def _action_row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    flags = ", ".join(f"`{flag}`" for flag in action.option_strings)
    name = f"{flags} {action.metavar or ''}".strip() or action.dest
    default = "**required**" if action.required else _shown(action.default if action.nargs != 0 else None)
    meaning = parser._get_formatter()._expand_help(action) if action.help else ""
    return f"| {name} | {default} | {meaning} |\n"
