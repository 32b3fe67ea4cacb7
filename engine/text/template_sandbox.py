"""Running chat templates, which are programs that came with the weights, so that all they can do is make text.

Jinja's sandbox keeps a template from reaching Python's insides. It does not keep it from running for ever or from
filling memory; here a budget does. Names that real templates have no use for are not offered at all.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from engine.text.template_budget import (
    MAX_TEXT_CHARS,
    Budget,
    OverBudget,
    check_join,
    check_operation,
    check_replacement,
    checked_arguments,
    current_budget,
)

# Templates in use have a few kilobytes.
MAX_SOURCE_CHARS = 256 * 1024
_MAX_INDENT = 16

_FILTERS = frozenset(
    {"abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int", "items", "last"}
    | {"length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "safe", "select"}
    | {"selectattr", "sort", "sum", "title", "trim", "unique", "upper"}
)
_TEXT_METHODS = frozenset(
    {"capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdecimal", "isdigit", "islower"}
    | {"isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition", "removeprefix"}
    | {"removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines"}
    | {"startswith", "strip", "swapcase", "title", "upper"}
)
_METHODS: Mapping[type, frozenset[str]] = {
    str: _TEXT_METHODS,
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
}
_REFUSED_NODES = (nodes.Block, nodes.Extends, nodes.FromImport, nodes.Import, nodes.Include)


class Refused(Exception):
    """The template itself refused the messages, through `raise_exception`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompiledTemplate:
    template: jinja2.Template
    literals: tuple[str, ...]  # the strings that the template compares and splits by


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja as chat templates expect it (Hugging Face's conventions), without anything that could do harm."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing may be computed while compiling: there is no budget then
            extensions=[LoopControlExtension, _GenerationTag],
            finalize=_output,
        )
        self.filters = {name: _charged(self.filters[name]) for name in _FILTERS}
        self.filters.update(
            indent=_indent,
            join=_join,
            replace=_replace,
            string=_string,
            tojson=_to_json,
            _each=_Counted,
            _joined=_joined,
        )
        self.globals = {name: self.globals[name] for name in ("dict", "namespace", "range")}
        self.globals["raise_exception"] = _raise_exception

    def compile_checked(self, source: str) -> CompiledTemplate:
        """Raises jinja2.TemplateError with a message that says where."""
        if len(source) > MAX_SOURCE_CHARS:
            raise SecurityError(f"it has {len(source)} characters; at most {MAX_SOURCE_CHARS} are allowed")
        tree = self.parse(source)
        for node in tree.find_all(_REFUSED_NODES):
            raise SecurityError(f"line {node.lineno}: {type(node).__name__.lower()} is not allowed in a chat template")
        for loop in tree.find_all(nodes.For):
            if loop.recursive:
                raise SecurityError(f"line {loop.lineno}: a recursive loop is not allowed in a chat template")
        literals = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
        code = self.compile(_Metered().visit(tree))
        template = jinja2.Template.from_code(self, code, self.make_globals(None))
        return CompiledTemplate(template=template, literals=tuple(sorted(literals)))

    def run(self, compiled: CompiledTemplate, variables: Mapping[str, Any]) -> str:
        """The rendered text; OverBudget, Refused, or whatever the template's own mistakes lead to."""
        token = current_budget.set(Budget())
        pieces: list[str] = []
        num_chars = 0
        try:
            for piece in compiled.template.generate(variables):
                num_chars += len(piece)
                if num_chars > MAX_TEXT_CHARS:
                    raise OverBudget(f"made a text of more than {MAX_TEXT_CHARS} characters")
                pieces.append(piece)
        finally:
            current_budget.reset(token)
        return "".join(pieces)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, methods in _METHODS.items():
            if isinstance(obj, kind) and callable(value) and attr not in methods:
                return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` is not offered (see _METHODS): its widths make text of any size."""

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = current_budget.get()
        budget.charge()
        subject = getattr(__obj, "__self__", None)
        if isinstance(subject, str):
            args = checked_arguments(subject, getattr(__obj, "__name__", ""), args)
        return budget.charge_for(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operation(operator, left, right)
        return current_budget.get().charge_for(super().call_binop(context, operator, left, right))


class _Metered(NodeTransformer):
    """Rewrites what Jinja would run without asking: loops are counted and `~` is paid for."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        num_chars = nodes.Const(_num_literal_chars(node))
        node.iter = nodes.Filter(node.iter, "_each", [num_chars], [], None, None)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), "_joined", [], [], None, None)


class _Counted:
    """Charges for every turn of a loop, with the literal text that one turn can add."""

    def __init__(self, values: Any, num_chars: int) -> None:
        self._values = values
        self._num_chars = num_chars

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        budget = current_budget.get()
        for value in self._values:
            budget.charge(num_chars=self._num_chars)
            yield value


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; for serving it changes nothing."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _num_literal_chars(node: nodes.Node) -> int:
    return sum(len(data.data) for data in node.find_all(nodes.TemplateData))


@jinja2.pass_context  # a context is there only at run time, so that Jinja does not compute outputs while compiling
def _output(context: Context, value: Any) -> Any:
    current_budget.get().charge_text_of(value)
    return value


def _charged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # keeps the marks that say whether Jinja passes its context
    def charged(*args: Any, **kwargs: Any) -> Any:
        budget = current_budget.get()
        for argument in args:
            budget.charge_for(argument)
        return budget.charge_for(function(*args, **kwargs))

    return charged


def _raise_exception(message: Any) -> None:
    raise Refused(str(message))


def _joined(parts: Sequence[Any]) -> str:
    check_join(parts, "")
    return "".join(map(str, parts))


def _join(parts: Any, separator: str = "", attribute: str | int | None = None) -> str:
    values = list(parts)
    if attribute is not None:
        values = [value[attribute] for value in values]
    check_join(values, separator)
    return separator.join(map(str, values))


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    subject = _string(text)
    check_replacement(subject, old, new)
    return subject.replace(old, new, count)


def _string(value: Any) -> str:
    current_budget.get().charge_text_of(value)
    return str(value)


def _indent(text: str, width: int = 4, first: bool = False, blank: bool = False) -> str:
    lines = (_string(text) + "\n").splitlines()
    margin = " " * _checked_indent(width)
    check_join(lines, margin)
    indented = [margin + line if line or blank else line for line in lines]
    indented[0] = margin + lines[0] if first else lines[0]
    return "\n".join(indented)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter would escape what HTML minds."""
    current_budget.get().charge_text_of(value)
    width = None if indent is None else _checked_indent(indent)
    text = json.dumps(value, ensure_ascii=False, indent=width, separators=separators, sort_keys=sort_keys)
    if ensure_ascii:  # but for private-use characters: some are content marks, see content_marks.py
        text = re.sub("[\x80-\U000effff]", lambda match: json.dumps(match[0])[1:-1], text)
    return str(current_budget.get().charge_for(text))


def _checked_indent(width: Any) -> int:
    if isinstance(width, int) and 0 <= width <= _MAX_INDENT:
        return width
    raise OverBudget(f"indented by {width!r}; 0 to {_MAX_INDENT} characters are allowed")
