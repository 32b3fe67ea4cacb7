"""Python functions of the interpreter's own standard library: head with docstring, then body.

Nothing is copied into the repository: the library is read where it is installed. Whole modules are held out, since
functions of one module resemble each other."""

import ast
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "lib2to3", "idlelib", "turtledemo"}
MAX_CHARACTERS = 6_000  # longer functions are mostly tables and option parsers


@dataclass(frozen=True, kw_only=True)
class PythonFunction:
    module: str
    head: str  # decorators, signature and docstring, dedented; without docstring: decorators and signature
    body: str  # indented as it stands below the head
    has_docstring: bool


def module_split(module: str) -> str:
    """`train`, `valid` or `test`: by a hash of the module's name, so that it does not move when the library changes."""
    bucket = sha256(module.encode()).digest()[0]
    return "test" if bucket < 15 else "valid" if bucket < 23 else "train"


def library_root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def library_functions(split: str) -> Iterator[PythonFunction]:
    root = library_root()
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if SKIPPED_FOLDERS.intersection(inside.parts) or inside.parts[0].startswith("config-"):
            continue
        if module_split(inside.as_posix()) == split:
            yield from file_functions(inside.as_posix(), path)


def file_functions(module: str, path: Path) -> Iterator[PythonFunction]:
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (UnicodeDecodeError, SyntaxError):
        return  # the library ships a few files that are broken on purpose
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = split_function(module, lines, node)
            if function is not None:
                yield function


def split_function(
    module: str, lines: list[str], node: ast.FunctionDef | ast.AsyncFunctionDef
) -> PythonFunction | None:
    has_docstring = ast.get_docstring(node) is not None
    body = node.body[1:] if has_docstring else node.body
    if not body or body[0].lineno == node.lineno or node.end_lineno is None:
        return None  # nothing but a docstring, or a one-liner
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    head_end = (node.body[0].end_lineno or 0) if has_docstring else first_body_line(lines, node) - 1
    text = textwrap.dedent("\n".join(lines[first : node.end_lineno]))
    if len(text) > MAX_CHARACTERS:
        return None
    split_lines = text.splitlines()
    num_head = head_end - first
    head, rest = "\n".join(split_lines[:num_head]), "\n".join(split_lines[num_head:])
    return PythonFunction(module=module, head=head, body=rest, has_docstring=has_docstring) if rest.strip() else None


def first_body_line(lines: list[str], node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Number of the line after the signature: comments between signature and body belong to the body."""
    number = node.body[0].lineno
    while number - 1 > node.lineno and lines[number - 2].lstrip().startswith(("#", "@")):
        number -= 1
    return number
