"""The names that `specfleet` exports, with their signatures and docstrings, as Markdown."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import specfleet

__all__ = ["exports"]

_MADE_BY_OTHERS = {"AsyncGeneration", "Generation", "SpecfleetClientError"}
"""Nobody calls these by name."""

_WIDTH = 80


def exports(home: str) -> str:
    """What the package exports from one of its modules: classes with their public members, in the order of the file."""
    module = importlib.import_module(home)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    wanted = {name for name in specfleet.__all__ if getattr(getattr(specfleet, name), "__module__", "") == home}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in wanted]
    return "\n".join(part for node in classes for part in _class(node))


def _class(node: ast.ClassDef) -> Iterator[str]:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    yield f"### {node.name}\n"
    if bases:
        yield f"`class {node.name}({bases})`\n"
    yield f"{_doc(node)}\n"
    if fields := list(_fields(node)):
        yield "| field | type | meaning |\n|---|---|---|\n" + "".join(fields)
    for member in node.body:
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and _is_shown(member.name, node.name):
            yield from _function(member, node.name)


def _is_shown(member: str, owner: str) -> bool:
    return owner not in _MADE_BY_OTHERS if member == "__init__" else not member.startswith("_")


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str) -> Iterator[str]:
    name = owner if node.name == "__init__" else f"{owner}.{node.name}"
    answer = f" -> {ast.unparse(node.returns)}" if node.returns is not None and node.name != "__init__" else ""
    wait = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    decorated = any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)
    yield f"```py\n{wait}{name}{'' if decorated else _call(node.args)}{answer}\n```\n"
    if text := _doc(node):
        yield f"{text}\n"


def _call(arguments: ast.arguments) -> str:
    """The arguments in brackets: on one line, or where they are many, on one each."""
    positional = arguments.args[1:]  # without self
    required: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    plain = [*map(_argument, positional, [*required, *arguments.defaults])]
    named = [*map(_argument, arguments.kwonlyargs, arguments.kw_defaults)]
    rest = [f"**{_annotated(arguments.kwarg)}"] if arguments.kwarg is not None else []
    shown = [*plain, *(["*", *named] if named else []), *rest]
    short = f"({', '.join(shown)})"
    return short if len(short) <= _WIDTH else "(\n" + "".join(f"    {each},\n" for each in shown) + ")"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return _annotated(argument) + (f" = {ast.unparse(default)}" if default is not None else "")


def _annotated(argument: ast.arg) -> str:
    return argument.arg + (f": {ast.unparse(argument.annotation)}" if argument.annotation is not None else "")


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """Annotated attributes; a text that stands alone below one says what it means."""
    followers: list[ast.stmt | None] = [*node.body[1:], None]
    for item, after in zip(node.body, followers, strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            meaning = " ".join(str(said).split())
            kind = ast.unparse(item.annotation).replace("|", "\\|")
            yield f"| `{item.target.id}` | `{kind}` | {meaning} |\n"


def _doc(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return inspect.cleandoc(ast.get_docstring(node) or "")
