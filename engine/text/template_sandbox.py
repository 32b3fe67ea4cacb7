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
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from engine.text.template_budget import (
    MAX_SOURCE_CHARS,
    MAX_TEXT_CHARS,
    Budget,
    OverBudget,
    check_arguments,
    check_join,
    check_operation,
    check_replacement,
    current_budget,
)

_MAX_INDENT = 16
_MAX_FREE_LITERALS = 16

# Those that look at a value, or at what it holds but no deeper, and those that walk all of it.
_FILTERS = frozenset(
    {"abs", "count", "d", "default", "first", "float", "int", "items", "last", "length", "list", "map"}
    | {"reject", "rejectattr", "reverse", "select", "selectattr"}
)
_WALKING_FILTERS = frozenset(
    {"capitalize", "dictsort", "e", "escape", "lower", "max", "min", "safe", "sort", "title", "unique", "upper"}
)
_TESTS = frozenset(
    {"boolean", "callable", "defined", "escaped", "false", "float", "integer", "iterable", "mapping", "none", "number"}
    | {"sameas", "sequence", "string", "true", "undefined"}
)
_WALKING_TESTS = frozenset(
    {"!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le", "lessthan", "lower"}
    | {"lt", "ne", "upper"}
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

    intercepted_binops = frozenset(("+", "-", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing may be computed while compiling: there is no budget then
            extensions=[LoopControlExtension, _GenerationTag],
            finalize=_output,
        )
        self.filters = {
            **{name: _charged(self.filters[name], Budget.charge_for) for name in _FILTERS},
            **{name: _charged(self.filters[name], Budget.charge_walk) for name in _WALKING_FILTERS},
            "indent": _indent,
            "join": _join,
            "replace": _replace,
            "string": _string,
            "sum": _charged(_sum, Budget.charge_for),
            "tojson": _to_json,
            "trim": _trim,
            "_each": _Counted,
            "_joined": _joined,
            "_made": lambda value: current_budget.get().charge_for(value),
            "_walked": lambda value: current_budget.get().charge_walk(value),
        }
        self.tests = {
            **{name: self.tests[name] for name in _TESTS},
            **{name: _charged(self.tests[name], Budget.charge_walk) for name in _WALKING_TESTS},
            "divisibleby": lambda value, num: _remainder(value, num) == 0,
            "even": lambda value: _remainder(value, 2) == 0,
            "odd": lambda value: _remainder(value, 2) == 1,
        }
        self.globals = {
            "dict": dict,
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "range": self.globals["range"],
        }

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
        try:
            return "".join(_bounded(compiled.template.generate(variables)))
        finally:
            current_budget.reset(token)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, methods in _METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        return isinstance(obj, LoopContext | Namespace) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` is not offered (see _METHODS): its widths make text of any size."""

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = current_budget.get()
        budget.charge()
        if not isinstance(__obj, Macro):  # its own operations pay for what they do with arguments
            args, kwargs = _paid(args, kwargs, budget.charge_walk)
        subject = getattr(__obj, "__self__", None)
        if isinstance(subject, str):
            check_arguments(subject, getattr(__obj, "__name__", ""), [*args, *kwargs.values()])
        elif isinstance(subject, list | tuple):
            budget.charge_walk(subject)
        return budget.charge_for(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operation(operator, left, right)
        return current_budget.get().charge_for(super().call_binop(context, operator, left, right))


class _Metered(NodeTransformer):
    """Rewrites what Jinja would run without asking: loops are counted; `~`, literals, slices, comparisons and keys are
    paid for."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        num_chars = nodes.Const(_num_literal_chars(node))
        node.iter = _filtered(node.iter, "_each", num_chars)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes), "_joined")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        sides: list[nodes.Compare | nodes.Operand] = [node, *node.ops]
        if len(sides) > 2 or not any(_is_small_constant(side.expr) for side in sides):
            for side in sides:
                side.expr = _filtered(side.expr, "_walked")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _filtered(node, "_made")
        if not isinstance(node.arg, nodes.Const | nodes.Neg):
            node.arg = _filtered(node.arg, "_walked")
        return node

    def visit_List(self, node: nodes.List) -> nodes.Expr:
        self.generic_visit(node)
        return node if _is_small_constant(node) else _filtered(node, "_made")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        return node if node.ctx == "store" or _is_small_constant(node) else _filtered(node, "_made")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(node, "_made")

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _filtered(node.key, "_walked")
        return node


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


class _Namespace(Namespace):
    def __repr__(self) -> str:
        return "<Namespace>"  # Jinja's holds all its values


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; for serving it changes nothing."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _filtered(node: nodes.Node, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None)


def _is_small_constant(node: nodes.Expr) -> bool:
    """Not worth a charge: most comparisons have one on a side, and cannot walk far."""
    items = node.items if isinstance(node, nodes.List | nodes.Tuple) else [node]
    return len(items) <= _MAX_FREE_LITERALS and all(isinstance(item, nodes.Const) for item in items)


def _num_literal_chars(node: nodes.Node) -> int:
    return sum(len(data.data) for data in node.find_all(nodes.TemplateData))


@jinja2.pass_context  # a context is there only at run time, so that Jinja does not compute outputs while compiling
def _output(context: Context, value: Any) -> Any:
    current_budget.get().charge_text_of(value)
    return value


def _charged(function: Any, charge: Callable[[Budget, Any], Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # keeps the marks that say whether Jinja passes its context
    def charged(*args: Any, **kwargs: Any) -> Any:
        budget = current_budget.get()
        args, kwargs = _paid(args, kwargs, functools.partial(charge, budget))
        return budget.charge_for(function(*args, **kwargs))

    return charged


def _paid(
    args: tuple[Any, ...], kwargs: dict[str, Any], charge: Callable[[Any], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(charge, args)), {name: charge(value) for name, value in kwargs.items()} if kwargs else kwargs


def _raise_exception(message: Any) -> None:
    raise Refused(_string(message))


def _remainder(value: Any, num: Any) -> Any:
    check_operation("%", value, num)
    return value % num


def _sum(values: Any, attribute: str | int | None = None) -> Any:
    """Of numbers: lists would be copied at each step."""
    return sum(values if attribute is None else [value[attribute] for value in values])


def _trim(text: Any, chars: str | None = None) -> str:
    subject = _string(text)
    check_arguments(subject, "strip", [chars])
    return subject.strip(chars)


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
    encoder = json.JSONEncoder(ensure_ascii=False, indent=width, separators=separators, sort_keys=sort_keys)
    is_plain = width is None and separators is None
    text = encoder.encode(value) if is_plain else "".join(_bounded(encoder.iterencode(value)))
    if ensure_ascii:  # but for private-use characters: some are content marks, see content_marks.py
        text = re.sub("[\x80-\U000effff]+", lambda match: json.dumps(match[0])[1:-1], text)
    return str(current_budget.get().charge_for(text))


def _bounded(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces of a text, as long as it is not too long."""
    num_chars = 0
    for piece in pieces:
        num_chars += len(piece)
        if num_chars > MAX_TEXT_CHARS:
            raise OverBudget(f"made a text of more than {MAX_TEXT_CHARS} characters")
        yield piece


def _checked_indent(width: Any) -> int:
    if isinstance(width, int) and 0 <= width <= _MAX_INDENT:
        return width
    raise OverBudget(f"indented by {width!r}; 0 to {_MAX_INDENT} characters are allowed")
