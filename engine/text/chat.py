"""Chat messages to a prompt: the model's own template, run so that neither it nor a message can do harm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from contracts.errors import InvalidArgument, TokenizerError
from engine.json_fields import read_json_object, shown
from engine.text.content_marks import ContentMarks, characters_of, harmless_literals
from engine.text.guarded_encoder import Segment
from engine.text.template_budget import OverBudget
from engine.text.template_sandbox import Refused, Sandbox
from engine.text.tokenizer import Tokenizer

ROLES = ("system", "developer", "user", "assistant", "tool")
_TEMPLATE_FILE = "chat_template.jinja"
# What a message may hold besides role and content; templates read these by name.
_EXTRA_KEYS = ("name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content")
_MAX_DEPTH = 32


class ChatTemplate:
    """A compiled template with the tokens it may write. Immutable, and safe to share between threads."""

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        *,
        where: str = "chat template",
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._tokenizer = tokenizer
        self._where = where
        self._sandbox = Sandbox()
        self._sandbox.globals["strftime_now"] = _clock_for_templates(now)
        try:
            self._compiled = self._sandbox.compile_checked(source)
        except jinja2.TemplateSyntaxError as error:
            raise TokenizerError(f"{where}, line {error.lineno}: {error.message}") from error
        except (jinja2.TemplateError, RecursionError, MemoryError, SyntaxError, ValueError) as error:
            raise TokenizerError(f"{where} is refused: {error}") from error
        self._harmless = harmless_literals(self._compiled.literals, tokenizer.special_tokens)
        self._own_characters = set(source) | characters_of(list(tokenizer.role_tokens.values()))

    @staticmethod
    def load(
        folder: Path, tokenizer: Tokenizer, *, name: str = "default", now: Callable[[], datetime] = datetime.now
    ) -> ChatTemplate:
        """The template of a checkpoint folder; `name` chooses where a model has several."""
        source, where = _find_source(folder, name)
        return ChatTemplate(source, tokenizer, where=where, now=now)

    def encode(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """The prompt as token ids; options as for `render`."""
        return self._tokenizer.encode_segments(self.render(messages, **options))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[Segment]:
        """The prompt as text, where control tokens spelled out in a message, or a tool, are marked as mere text.

        `variables` reach the template by name, such as `enable_thinking`. Strings in them count as a user's.
        """
        given = {"messages": list(map(_checked_message, range(len(messages)), messages)), "tools": tools, **variables}
        _check_json(given)
        if not messages:
            raise InvalidArgument("messages is empty; a chat needs at least one message")
        taken = characters_of(given) | self._own_characters
        marks = ContentMarks(self._tokenizer.special_tokens, self._harmless, taken)
        values = {**self._tokenizer.role_tokens, **{key: marks.mark(value) for key, value in given.items()}}
        values["add_generation_prompt"] = add_generation_prompt
        # Roles were checked against ROLES, and templates compare and write them as they are.
        for marked, message in zip(values["messages"], messages, strict=True):
            marked["role"] = message["role"]
        return marks.segments(self._run(values))

    def _run(self, values: Mapping[str, Any]) -> str:
        try:
            return self._sandbox.run(self._compiled, values)
        except Refused as refusal:
            raise InvalidArgument(f"the model's chat template refuses these messages: {refusal}") from None
        except (OverBudget, jinja2.exceptions.SecurityError, RecursionError, MemoryError) as error:
            raise TokenizerError(f"{self._where} was stopped: {type(error).__name__}: {error}") from error
        except Exception as error:  # a template is a program: any of its mistakes can surface as any exception
            raise InvalidArgument(f"{self._where} fails on these messages: {type(error).__name__}: {error}") from error


def _checked_message(index: int, message: Mapping[str, Any]) -> dict[str, Any]:
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise InvalidArgument(f"{where} is {shown(message)}; it must be an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        raise InvalidArgument(f"{where}.role is {shown(role)}; it must be one of {', '.join(ROLES)}")
    unknown = sorted(set(message) - {"role", "content", *_EXTRA_KEYS})
    if unknown:
        raise InvalidArgument(f"{where} has {shown(unknown[0])}; allowed are role, content, {', '.join(_EXTRA_KEYS)}")
    content = _checked_content(where, message.get("content"), may_be_absent=bool(message.get("tool_calls")))
    return {"role": role, "content": content, **{key: message[key] for key in _EXTRA_KEYS if key in message}}


def _checked_content(where: str, content: Any, *, may_be_absent: bool) -> str | None:
    """Text as it is; a list of text parts joined by line ends, as templates of text models expect one string."""
    if isinstance(content, str) or (content is None and may_be_absent):
        return content
    if not isinstance(content, list) or not content:
        raise InvalidArgument(f"{where}.content is {shown(content)}; it must be a string or a list of text parts")
    for number, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InvalidArgument(
                f'{where}.content[{number}] is {shown(part)}; it must be {{"type": "text", "text": "..."}}, '
                "as only text is supported"
            )
    return "\n".join(part["text"] for part in content)


def _check_json(value: Any, depth: int = 0) -> None:
    """Only plain data may reach a template: any other object would bring its attributes and methods along."""
    if depth > _MAX_DEPTH:
        raise InvalidArgument(f"messages, tools or variables are nested more than {_MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidArgument(f"{shown(key)} is a key in messages, tools or variables; keys must be strings")
            _check_json(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_json(item, depth + 1)
    elif value is not None and not isinstance(value, str | int | float):
        raise InvalidArgument(f"a {type(value).__name__} is in messages, tools or variables; only JSON values may be")


def _find_source(folder: Path, name: str) -> tuple[str, str]:
    """A file of its own goes before the one inside `tokenizer_config.json`, as in transformers."""
    named_path = folder / "additional_chat_templates" / f"{Path(name).name}.jinja"
    path = folder / _TEMPLATE_FILE if name == "default" else named_path
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{path} cannot be read as text: {error}") from error
    settings_path = folder / "tokenizer_config.json"
    found = read_json_object(settings_path).get("chat_template") if settings_path.is_file() else None
    named = {"default": found} if isinstance(found, str) else _named_templates(settings_path, found)
    if name not in named:
        raise TokenizerError(
            f"{folder} has no chat template{f' named {name}' if name != 'default' else ''} (named here: "
            f"{', '.join(sorted(named)) or 'none'}); use text completion, or add {_TEMPLATE_FILE}"
        )
    return named[name], f"{settings_path}: chat_template"


def _named_templates(path: Path, found: Any) -> dict[str, str]:
    entries = found or []
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
        for entry in entries
    ):
        raise TokenizerError(f"{path}: chat_template is {shown(found)}; it must be a string or named templates")
    return {entry["name"]: entry["template"] for entry in entries}


def _clock_for_templates(now: Callable[[], datetime]) -> Callable[[str], str]:
    def strftime_now(form: str) -> str:
        # Widths in a format would make text of any size.
        if len(form) > 100 or any(character.isdigit() for character in form):
            raise OverBudget(f"asked for the time in the form {shown(form)}")
        return now().strftime(form)

    return strftime_now
