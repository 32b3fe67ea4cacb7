"""Reads the corpus: one folder per domain with `train.jsonl.gz` and `test.jsonl.gz`, and the Python domain beside
them.

`train` is cut by a hash of each prompt or text into what is learnt and a small `valid` part; `test` is only ever read
by the evaluation, and the `prompts` folder by nothing here."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from contracts.errors import InvalidArgument
from models.chat import Document, Message
from models.python_domain import library_functions

TEXT_DOMAINS = ("sql", "translation", "dialogue", "data2text", "cli_help", "math")
DOMAINS = (*TEXT_DOMAINS, "python")
SPLITS = ("train", "valid", "test")

PYTHON_REQUEST = "Complete this Python function.\n"
SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "Answer the user's request.",
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One item of a domain. Chats end with the assistant's answer; `plain` is the same item as running text, where it
    has one."""

    domain: str
    key: int  # hash of the content: decides every variation
    origin: int  # hash of what it is cut from or asks; records that share it are all learnt, or all valid
    messages: tuple[Message, ...]
    plain: str = ""


def check_corpus(corpus: Path) -> None:
    if not corpus.is_dir():
        raise InvalidArgument(
            f"corpus folder {corpus} is not a folder; give the folder that holds {', '.join(TEXT_DOMAINS)}"
        )
    missing = [
        str(Path(d, f"{s}.jsonl.gz"))
        for d in TEXT_DOMAINS
        for s in ("train", "test")
        if not domain_file(corpus, d, s).is_file()
    ]
    if missing:
        raise InvalidArgument(
            f"corpus folder {corpus} lacks {', '.join(missing)}; every domain needs train.jsonl.gz and test.jsonl.gz"
        )


def domain_file(corpus: Path, domain: str, split: str) -> Path:
    return corpus / domain / f"{'test' if split == 'test' else 'train'}.jsonl.gz"


def records(corpus: Path, domain: str, split: str) -> Iterator[Record]:
    if split not in SPLITS:
        raise InvalidArgument(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    if domain == "python":
        yield from python_records(split)
        return
    for raw in read_lines(domain_file(corpus, domain, split)):
        record = parse_record(domain, raw)
        if split == "test" or (split == "valid") == is_valid(record.origin):
            yield record


def is_valid(origin: int) -> bool:
    return origin % 128 == 0


def content_key(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:7], "big")


def read_lines(path: Path) -> Iterator[dict[str, object]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    item = json.loads(line)
                except json.JSONDecodeError as error:
                    raise InvalidArgument(
                        f"{path} line {number} is not JSON ({error.msg}); one JSON object per line is needed"
                    ) from error
                if not isinstance(item, dict):
                    raise InvalidArgument(
                        f"{path} line {number} is a {type(item).__name__}; one JSON object per line is needed"
                    )
                yield item
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} cannot be read as gzip of JSON lines: {error}") from error


def parse_record(domain: str, item: dict[str, object]) -> Record:
    match item:
        case {"prompt": str(prompt), "response": str(response)}:
            messages = (Message(role="user", content=prompt), Message(role="assistant", content=response))
            key, origin = content_key(prompt + "\n" + response), content_key(prompt)
            return Record(domain=domain, key=key, origin=origin, messages=messages)
        case {"text": str(text)}:
            key = content_key(text)
            return Record(domain=domain, key=key, origin=key, messages=tuple(dialogue_turns(text)), plain=text)
    raise InvalidArgument(
        f"a record of domain {domain} has the keys {sorted(item)}; needed are prompt and response, or text"
    )


def dialogue_turns(text: str) -> Iterator[Message]:
    """`User: ...` and `Assistant: ...` lines as messages, cut after the last answer."""
    turns = []
    for line in text.splitlines():
        speaker, separator, content = line.partition(": ")
        if not separator or speaker not in ("User", "Assistant"):
            raise InvalidArgument(
                f"a dialogue line starts with {line[:30]!r}; it must start with 'User: ' or 'Assistant: '"
            )
        turns.append(Message(role=speaker.lower(), content=content))
    while turns and turns[-1].role != "assistant":
        turns.pop()
    yield from turns


def python_records(split: str) -> Iterator[Record]:
    for function in library_functions(split):
        plain = function.head + "\n" + function.body
        messages: tuple[Message, ...] = ()
        if function.has_docstring:
            messages = (
                Message(role="user", content=PYTHON_REQUEST + function.head),
                Message(role="assistant", content=function.body),
            )
        key = content_key(plain)
        yield Record(domain="python", key=key, origin=key, messages=messages, plain=plain)


def documents(record: Record) -> Iterator[Document]:
    """The forms in which one record is learnt: as a chat, now and then with a system message, and as running text
    where it has one."""
    if record.messages:
        system: tuple[Message, ...] = ()
        if record.key // 128 % 16 == 0:
            system = (Message(role="system", content=SYSTEM_MESSAGES[record.key // 2048 % len(SYSTEM_MESSAGES)]),)
        yield Document(messages=system + record.messages, learn_all=record.domain == "dialogue")
    if record.plain:
        yield Document(text=record.plain)
