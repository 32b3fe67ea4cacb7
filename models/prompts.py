"""Prompts of a domain: the chat up to an answer, as the family's template renders it, and the answer the corpus gives.

Taken from `test` for evaluation and benchmarks, from `train` for distillation; always the same ones.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from contracts.errors import SpecfleetError
from models.chat import END, Message, prompt_text
from models.corpus import DOMAINS, Record, check_corpus, records
from models.files import atomic_write
from models.tokenizer import load_tokenizer

MAX_PROMPT_TOKENS = 384


@dataclass(frozen=True, kw_only=True)
class Prompt:
    domain: str
    messages: tuple[Message, ...]
    tokens: tuple[int, ...]
    reference: tuple[int, ...]  # the corpus's own answer, with the end token


def domain_prompts(corpus: Path, domain: str, split: str, tokenizer: Tokenizer, count: int) -> list[Prompt]:
    """`count` prompts of a split, or as many as it has, in an order that does not depend on the file's."""
    found: list[Prompt] = []
    for record in sorted(records(corpus, domain, split), key=lambda record: record.key):
        for messages, answer in questions(record):
            tokens = tokenizer.encode(prompt_text(messages), add_special_tokens=False).ids
            if len(tokens) <= MAX_PROMPT_TOKENS:
                reference = tokenizer.encode(answer.strip() + END, add_special_tokens=False).ids
                found.append(Prompt(domain=domain, messages=messages, tokens=tuple(tokens), reference=tuple(reference)))
        if len(found) >= count:
            break
    return found[:count]


def questions(record: Record) -> Iterator[tuple[tuple[Message, ...], str]]:
    """A record's question; of a dialogue one of its turns, chosen by the record's hash."""
    answers = [index for index, message in enumerate(record.messages) if message.role == "assistant"]
    if answers:
        index = answers[record.key // 128 % len(answers)]
        yield record.messages[:index], record.messages[index].content


def main(arguments: list[str] | None = None) -> None:
    """Cuts a small file of test prompts, for tests that have no corpus at hand."""
    parser = argparse.ArgumentParser(
        prog="python -m models.prompts", description="Write a few test prompts per domain."
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the text domains")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of the family")
    parser.add_argument("--count", type=int, default=8, help="prompts per domain")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines to write")
    given = parser.parse_args(arguments)
    try:
        check_corpus(given.corpus)
        tokenizer = load_tokenizer(given.tokenizer)
        lines = [
            json.dumps(
                {"domain": domain, "messages": [asdict(message) for message in prompt.messages]}, ensure_ascii=False
            )
            for domain in DOMAINS
            for prompt in domain_prompts(given.corpus, domain, "test", tokenizer, given.count)
        ]
        atomic_write(given.out, ("\n".join(lines) + "\n").encode())
    except SpecfleetError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
